from casam_fed.errors import CasamError as CasamError
from casam_fed.segmenting.opened import CaseRoute as CaseRoute
from casam_fed.segmenting.opened import Found as Found
from casam_fed.segmenting.opened import OpenedBank as OpenedBank
from casam_fed.segmenting.opened import open_bank as open_bank
from casam_fed.segmenting.opened import segment as segment

__version__: str
