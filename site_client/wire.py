"""What Flower makes of a message: objects, each named by the SHA-256 of its bytes. Uses private modules of flwr 1.41."""

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

__all__ = ["message_id", "objects_of", "refusal_of"]


def message_id(message: Message) -> str:
    """Return the id under which a reply travels: that of its outermost object."""
    return str(message.object_id)


def objects_of(message: Message) -> list[tuple[str, int]]:
    """Return id and bytes of every object that is put on the wire for a message, the innermost first."""
    return [(digest, len(each.deflate())) for digest, each in get_all_nested_objects(message).items()]


def refusal_of(message: Message, word: str) -> Message:
    """Return the reply by which the app that a message belongs to is refused."""
    return Message(Error(ErrorCode.INVALID_FAB, word), reply_to=message)
