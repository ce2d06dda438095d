#!/usr/bin/env bash
# Verifies an audit export of casam-fed without casam-fed, and without anything that casam-fed is written in.
#
#     bash verify.sh EXPORT BANK_KEY.pem [SITE_KEY.pem...]
#
# EXPORT is the folder; the keys are public Ed25519 keys in PEM form, which the auditor must have from the parties
# themselves: an export cannot vouch for its own keys. An export of a site needs the key of its log and, after it, the
# earlier keys of that site, if it had any; one of a bank the keys of all sites with a release in it.
#
# The last line says `verified: ...`, `failed [CODE]: ...` or `incomplete [CODE]: ...`; the exit code is 0, 1 or 2. The
# order of the checks, and the codes, are those of casam-audit: the two programs share no line, so that an error in one
# shows in the other. Needs bash 4.4, openssl 3, jq 1.6, GNU find and coreutils; writes nothing but a temporary folder.
#
# Forms: DSSE 1.0 envelopes; in-toto Statement v1; RFC 6962 trees; C2SP signed-note, tlog-checkpoint, tlog-cosignature
# v1, tlog-tiles and tlog-proof.

set -euo pipefail
shopt -s inherit_errexit
shopt -u nocasematch
export LC_ALL=C
# Text is bytes here, and neither openssl nor the coreutils may be told by the caller's surroundings to do otherwise.
unset CDPATH POSIXLY_CORRECT OPENSSL_MODULES
export OPENSSL_CONF=/dev/null

readonly MAX_KEY_BYTES=1023 MAX_NOTE_BYTES=16384 MAX_ENTRY_BYTES=65535 MAX_PROOF_BYTES=19347
readonly MAX_MANIFEST_BYTES=65536 MAX_HEADER_BYTES=1048576
readonly INTOTO='application/vnd.in-toto+json' RECEIPT='application/vnd.casam-fed.receipt+json'
readonly LARGEST=9223372036854775807
readonly YEAR_10000=0000003afff44180

# ---- Verdicts --------------------------------------------------------------------------------------------------------

concluded=
work=

# Whatever ends this program before it has come to a verdict, an error in itself included, must not look like success.
on_exit() {
  [[ -z $work ]] || rm -rf -- "$work"
  [[ -n $concluded ]] && return
  printf 'failed [internal]: this program stopped before all was checked; see above, and try casam-audit\n' >&9
  exit 1
}

# What is not there, or not for this program to read, leaves the question open; all other codes say that it is answered.
readonly INCOMPLETE=' key-form empty no-manifest newer-format newer-event key-missing checkpoint-missing tiles-missing
  release-missing card-missing statement-missing payload-missing receipt-missing proof-missing '

# Sentences quote what others wrote: what does not print could move the cursor, or write a verdict of its own.
stop() {  # CODE SENTENCE
  local word=failed status=1
  if [[ $INCOMPLETE == *" $1"[$' \n']* ]]; then word=incomplete status=2; fi
  concluded=yes
  printf '%s [%s]: %s\n' "$word" "$1" "${2//[^ -~]/?}" >&9
  exit "$status"
}

report=()
say() { report+=("verified: ${1//[^ -~]/?}"); }

# ---- Bytes -----------------------------------------------------------------------------------------------------------
# Functions that give a value put it into REPLY, and the shell itself handles bytes, as hexadecimal digits: one process
# for each of some ten thousand values would take longer than all checks.

sha256_of() {
  REPLY=$(sha256sum < "$1")
  REPLY=${REPLY%% *}
}

# SHA-256 of many files, in their order, into the array REPLIES. Their names are this program's own.
sha256_of_all() {
  printf '%s\0' "$@" | xargs -0 sha256sum -z > "$work/hashes"
  mapfile -d '' -t REPLIES < "$work/hashes"
  (( ${#REPLIES[@]} == $# )) || exit 1
  REPLIES=("${REPLIES[@]%% *}")
}

# A file's bytes into REPLY; false where they are not text that a variable can hold: `read` has come upon a NUL.
text_of() {
  REPLY=
  [[ -r $1 ]] && ! IFS= read -r -d '' REPLY < "$1"
}

# The next byte of descriptor 3, as a number.
read_byte() {
  IFS= read -r -d '' -n 1 -u 3 REPLY || return 1
  if [[ -z $REPLY ]]; then REPLY=0; else printf -v REPLY %d "'$REPLY"; fi
  REPLY=$(( REPLY & 255 ))
}

# Copies COUNT bytes of descriptor 3 to stdout; they are in REPLY as well, unless there is a NUL among them.
copy_bytes() {
  local left=$1 whole=
  while (( left > 0 )); do
    IFS= read -r -d '' -n "$left" -u 3 REPLY || return 1
    printf %s "$REPLY"
    left=$(( left - ${#REPLY} ))
    # Fewer than were asked for: a NUL was in the way.
    if (( left > 0 )); then printf '\0'; left=$(( left - 1 )); whole=no; fi
  done
  [[ -z $whole && $1 -gt 0 ]] || REPLY=
}

write_hex() {
  local at escaped=
  for (( at = 0; at < ${#1}; at += 2 )); do escaped+=\\x${1:at:2}; done
  printf "$escaped"
}

# base64 in the one form that encodes its bytes: no line breaks, and no bits left over at the end.
is_base64() {
  [[ $1 != *[!A-Za-z0-9+/=]* ]] && (( ${#1} % 4 == 0 )) || return 1
  case $1 in
    *==) [[ ${1%==} != *=* && $1 == *[AQgw]== ]] ;;
    *=) [[ ${1%=} != *=* && $1 == *[AEIMQUYcgkosw048]= ]] ;;
    *) [[ $1 != *=* ]] ;;
  esac
}

base64_bytes() {
  local padding=${1##*[!=]}
  REPLY=$(( ${#1} / 4 * 3 - ${#padding} ))
}

declare -A sextet=([=]=0)
for digit in {A..Z} {a..z} {0..9} + /; do sextet[$digit]=$(( ${#sextet[@]} - 1 )); done

hex_of_base64() {
  local at word hex=
  for (( at = 0; at < ${#1}; at += 4 )); do
    word=$(( ${sextet[${1:at:1}]} << 18 | ${sextet[${1:at+1:1}]} << 12 ))
    printf -v word %06x $(( word | ${sextet[${1:at+2:1}]} << 6 | ${sextet[${1:at+3:1}]} ))
    hex+=$word
  done
  base64_bytes "$1"
  REPLY=${hex:0:2 * REPLY}
}

# A number as the C2SP forms write it, small enough for arithmetic of 64 bits with a sign.
is_number() {
  [[ $1 =~ ^(0|[1-9][0-9]{0,18})$ ]] && [[ ${#1} -lt ${#LARGEST} || ! $1 > $LARGEST ]]
}

verifies() {  # KEY.pem MESSAGE SIGNATURE, all files
  openssl pkeyutl -verify -pubin -inkey "$1" -rawin -in "$2" -sigfile "$3" > /dev/null 2>&1
}

# ---- The export ------------------------------------------------------------------------------------------------------
# All files are listed once, and those hashed that entries name by their SHA-256. Only plain files count as being there:
# a link leads out of the export, and a pipe never ends.

declare -A file_size=() file_hash=() others=() accounted=()

list_export() {
  local line rest
  local -a found
  find "$export" -mindepth 1 ! -type d -printf '%y %s %P\0' > "$work/found"
  mapfile -d '' -t found < "$work/found"
  for line in "${found[@]}"; do
    rest=${line#* }
    if [[ $line == f\ * ]]; then file_size[${rest#* }]=${rest%% *}; else others[${rest#* }]=yes; fi
  done
}

hash_export() {
  local path line
  for path in "${!file_size[@]}"; do
    case $path in releases/* | cards/* | statements/* | payloads/* | receipts/*) printf '%s\0' "$path" ;; esac
  done > "$work/names"
  (cd "$export" && xargs -0 -r sha256sum -z) < "$work/names" > "$work/hashes"
  while IFS= read -r -d '' line; do file_hash[${line:66}]=${line:0:64}; done < "$work/hashes"
}

# True where a path of the export is a plain file, which is then accounted for.
have() {
  [[ -n ${file_size[$1]:-} ]] || return 1
  accounted[$1]=yes
}

need() {  # PATH CODE OF_WHOM
  local folder=$1
  have "$1" && return
  while [[ $folder == */* ]]; do
    folder=${folder%/*}
    [[ -z ${others[$folder]:-} ]] || stop surplus "$folder is no folder in this export, but leads out of it"
  done
  stop "$2" "$1 is missing; ask $3 for it"
}

# A file that an entry names by its SHA-256.
need_digest() {  # PATH DIGEST CODE OF_WHOM
  need "$1" "$3-missing" "$4"
  [[ ${file_hash[$1]} == "$2" ]] || stop "$3-digest" "$1 is not what its name says; it was changed"
}

# ---- What JSON may say -----------------------------------------------------------------------------------------------
# A program for jq reads one document a line and answers two lines for each: the document as it must have been written
# (sorted names, no spaces), which the caller compares with the bytes, and `good FIELD...`, `newer` or `bad`.

readonly FORMS='
def is(re): type == "string" and test("\\A(?:" + re + ")\\z");
def name: is("[A-Za-z0-9][A-Za-z0-9._-]{0,62}");
def digest: is("[0-9a-f]{64}");
def or_none(form): . == "" or form;
# jq reads numbers as doubles: up to 2^53 they are exact, and written without point or exponent.
def number: type == "number" and (tojson | test("\\A(0|[1-9][0-9]*)\\z")) and . < 9007199254740992;
def time:
  is("[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z")
  and ([.[0:4], .[5:7], .[8:10], .[11:13], .[14:16], .[17:19] | tonumber] as [$y, $m, $d, $h, $min, $s]
    | (if ($y % 4 == 0 and $y % 100 != 0) or $y % 400 == 0 then 29 else 28 end) as $february
    | $y >= 1 and $m >= 1 and $m <= 12 and $d >= 1
      and $d <= [31, $february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][$m - 1]
      and $h < 24 and $min < 60 and $s < 60);
def one_of($choices): . as $value | any($choices[]; . == $value);
def object($names): type == "object" and keys == ($names | sort);

# Subjects of a statement: each a role and a SHA-256, in the order of their roles.
def subjects:
  type == "array" and length > 0
  and all(.[]; object(["name", "digest"]) and (.name | type == "string")
               and (.digest | object(["sha256"]) and (.sha256 | digest)))
  and (map(.name) | . == unique);

def judged(ok; newer; fields):
  (try fromjson catch null) as $document
  | if ($document | type) != "object" then "null", "bad"
    elif $document | (try newer catch false) then "null", "newer"
    elif $document | (try ok catch false) then
      $document,
      ($document | [fields] | map(if . == null or . == "" then "-" else tostring end) | "good " + join(" "))
    else "null", "bad" end;
'

readonly MANIFEST='
judged(
  object(["format", "kind", "federation", "site", "made", "code"]) and .format == 1
    and (.kind | one_of(["site", "bank"])) and (.federation | name) and (.code | name) and (.made | time)
    and (if .kind == "site" then .site | name else .site == "" end);
  (.format | number) and .format > 1;
  .kind, .federation, .site, .made)
'

readonly STATEMENT='
judged(
  object(["_type", "subject", "predicateType", "predicate"]) and ._type == "https://in-toto.io/Statement/v1"
    and .predicateType == "https://casam-fed.github.io/release/v1"
    and (.subject | subjects and length == 1 and .[0].name == "release.safetensors")
    and (.predicate
      | object(["size", "federation", "site", "task", "backbone", "app", "code", "approved", "time"])
        and (.size | number) and (.federation | name) and (.site | name) and (.task | name) and (.backbone | digest)
        and (.app | digest) and (.code | name) and (.approved | one_of(["person", "option"])) and (.time | time));
  false;
  .subject[0].digest.sha256, (.predicate | .size, .site, .task, .federation, .backbone, .app, .code, .approved))
'

readonly RECEIPT_FORM='
judged(
  object(["digest", "outcome", "sequence", "code", "reason"]) and (.digest | digest)
    and (.outcome | one_of(["admitted", "quarantined", "refused"])) and (.sequence | . == null or number)
    and (.code | is("[A-Z0-9]{0,8}")) and (.reason | is("[ -~]{0,600}"));
  false;
  .digest, .outcome, .code)
'

# Each kind of event: its subjects, those that may be absent, and its facts with their forms.
readonly EVENT='
def decided: {site: "name", task: "name", size: "number", code: "name"};
def events: {
  site: {
    began: [["key"], [], {site: "name", code: "name"}],
    approved: [["card", "release", "statement"], [], {
      federation: "name", task: "name", size: "number", images: "number", patients: "number", backbone: "digest",
      app: "digest", code: "name", approved: "approval"}],
    declined: [["release"], [], {federation: "name", task: "name"}],
    intent: [["payload"], ["release"], {
      federation: "name", kind: "name", request: "digest or none", size: "number", objects: "objects"}],
    sent: [["message"], [], {intent: "number"}],
    withheld: [["request"], [], {federation: "name", kind: "name", code: "name"}],
    receipt: [["receipt", "release"], [], {federation: "name", outcome: "outcome", code: "name", decision: "number"}]},
  bank: {
    began: [["backbone", "background", "key"], [], {
      federation: "name", backbone_name: "name", code: "name", app: "digest"}],
    enrolled: [["key"], [], {site: "name"}],
    revoked: [["key"], [], {site: "name"}],
    admitted: [["release", "statement"], [], decided + {entry: "number", by: "decider"}],
    quarantined: [["release", "statement"], [], decided],
    refused: [["release"], ["statement"], decided + {task: "name or none"}],
    retired: [["release"], [], {site: "name", task: "name", entry: "number", reason: "reason"}]}};
def fits($form):
  if $form == "name" then name elif $form == "name or none" then or_none(name)
  elif $form == "digest" then digest elif $form == "digest or none" then or_none(digest)
  elif $form == "number" then number
  elif $form == "approval" then one_of(["person", "option"])
  elif $form == "decider" then one_of(["rule", "person"])
  elif $form == "outcome" then one_of(["admitted", "quarantined", "refused"])
  elif $form == "reason" then
    one_of(["site-request", "consent-withdrawn", "wrong-data", "harmful", "superseded", "other"])
  elif $form == "objects" then
    type == "array" and length <= 512 and all(.[]; object(["id", "bytes"]) and (.id | digest) and (.bytes | number))
  else false end;
def event:
  object(["_type", "subject", "predicateType", "predicate"]) and ._type == "https://in-toto.io/Statement/v1"
    and .predicateType == "https://casam-fed.github.io/log-entry/v1" and (.subject | subjects)
    and (.predicate.log | is("casam-fed/(site|bank)/[A-Za-z0-9][A-Za-z0-9._-]{0,62}/[0-9a-f]{12}"))
    and (.predicate.event | type == "string")
    and (events[.predicate.log | split("/")[1]][.predicate.event] as $form
      | $form != null
        and (.subject | map(.name) | . - $form[0] - $form[1] == [] and $form[0] - . == [])
        and (.predicate
          | object(["log", "sequence", "previous", "time", "event"] + ($form[2] | keys))
            and (.sequence | number) and (.previous | or_none(digest)) and (.sequence == 0) == (.previous == "")
            and (.time | time)
            and (. as $facts | all($form[2] | to_entries[]; .value as $kind | $facts[.key] | fits($kind)))));
judged(
  event;
  .predicateType | is("https://casam-fed\\.github\\.io/log-entry/v[0-9]{1,4}")
    and . != "https://casam-fed.github.io/log-entry/v1";
  (.subject | map({key: .name, value: .digest.sha256}) | from_entries) as $subjects
  | (.predicate
    | .event, .log, .sequence, .previous, .time,
      ($subjects | .key, .release, .card, .statement, .payload, .message, .receipt),
      .federation, .site, .task, .size, .entry, .decision, .outcome, .code, .intent, .backbone, .app, .approved, .by,
      (.objects // [] | map(.id) | join(","))))
'

# Reads lines that may be JSON; the answers, two a line, into the array REPLIES.
judge() {  # PROGRAM FILE
  jq -R -r -c -S "$FORMS$1" < "$2" > "$work/answers"
  mapfile -t REPLIES < "$work/answers"
}

# ---- Envelopes -------------------------------------------------------------------------------------------------------

# Takes a DSSE envelope apart: payload and signature in base64, type, key. There is one way of writing it: rebuilt from
# its parts, it must be the text again.
read_envelope() {  # TEXT
  local -a part
  local again
  [[ $1 != *[!\ -~]* ]] || return 1
  IFS='"' read -r -a part <<< "$1"
  (( ${#part[@]} == 19 )) || return 1
  payload64=${part[3]} type=${part[7]} key_id=${part[13]} signature64=${part[17]}
  printf -v again '{"payload":"%s","payloadType":"%s","signatures":[{"keyid":"%s","sig":"%s"}]}' \
    "$payload64" "$type" "$key_id" "$signature64"
  [[ $again == "$1" ]] && is_base64 "$payload64" && is_base64 "$signature64"
}

# Decodes the envelope that was read last: what was signed (DSSE's PAE) and the signature go into files, the payload
# into REPLY; an empty payload where it is not text.
decode_envelope() {  # STEM OF THE FILES
  local size head
  base64_bytes "$payload64"
  size=$REPLY
  printf -v head 'DSSEv1 %d %s %d ' "${#type}" "$type" "$size"
  { printf %s "$head"; base64 -d <<< "$payload64"; } > "$1.signed"
  hex_of_base64 "$signature64"
  write_hex "$REPLY" > "$1.signature"
  if text_of "$1.signed"; then REPLY=${REPLY#"$head"}; else REPLY=; fi
}

envelope_in() {  # PATH TYPE
  (( ${file_size[$1]:-MAX_ENTRY_BYTES + 1} <= MAX_ENTRY_BYTES )) && text_of "$export/$1" && read_envelope "$REPLY" &&
    [[ $type == "$2" ]]
}

declare -A said=()

# Decodes many envelopes; what they say, by one call of jq, into said[PATH], for those in their one form.
read_envelopes() {  # PROGRAM TYPE PATH...
  local program=$1 wanted=$2 path index
  local -a paths=() texts=()
  shift 2
  for path in "$@"; do
    envelope_in "$path" "$wanted" || continue
    decode_envelope "$work/${path##*/}"
    # What is not printable ASCII is in nobody's one form, and line breaks would upset the reading by lines.
    [[ -n $REPLY && $REPLY != *[!\ -~]* ]] || continue
    paths+=("$path") texts+=("$REPLY")
  done
  (( ${#texts[@]} > 0 )) || return 0
  printf '%s\n' "${texts[@]}" > "$work/documents"
  judge "$program" "$work/documents"
  (( ${#REPLIES[@]} == 2 * ${#paths[@]} )) || exit 1
  for index in "${!paths[@]}"; do
    [[ ${REPLIES[2 * index]} == "${texts[index]}" && ${REPLIES[2 * index + 1]} == good\ * ]] || continue
    said[${paths[index]}]=${REPLIES[2 * index + 1]#good }
  done
}

# ---- Keys ------------------------------------------------------------------------------------------------------------
# y of the points whose order divides 8, without the bit of the sign, as RFC 8032 writes them, those beyond the prime
# included. With such a key anybody can sign anything.
readonly ZEROS=000000000000000000000000000000000000000000000000000000000000
readonly EFFS=ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff
readonly SMALL_ORDER=" 00${ZEROS}00 01${ZEROS}00 ec${EFFS}7f ed${EFFS}7f ee${EFFS}7f
  26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05
  c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a "

# Number 0 is the bank's; sites' follow. Of each: raw bytes (hexadecimal), fingerprint, a copy for openssl.
key_raws=() key_prints=() key_pems=()

read_key() {  # FILE OWNER
  local pem der raw sign print
  local bad="the public key of $2 is no Ed25519 key in PEM form; ask for the file again"
  [[ -f $1 && -r $1 ]] && ! IFS= read -r -d '' -n $(( MAX_KEY_BYTES + 1 )) pem < "$1" || stop key-form "$bad"
  [[ $pem =~ ^-----BEGIN\ PUBLIC\ KEY-----$'\n'([A-Za-z0-9+/=]+)$'\n'-----END\ PUBLIC\ KEY-----$'\n'$ ]] &&
    der=${BASH_REMATCH[1]} && is_base64 "$der" || stop key-form "$bad"
  hex_of_base64 "$der"
  # RFC 8410: the prefix says Ed25519, 32 bytes.
  [[ $REPLY =~ ^302a300506032b6570032100([0-9a-f]{64})$ ]] || stop key-form "$bad"
  raw=${BASH_REMATCH[1]}
  printf -v sign %02x $(( 16#${raw:62} & 127 ))
  [[ $SMALL_ORDER != *[$' \n']"${raw:0:62}$sign"[$' \n']* ]] || stop key-form "$bad"
  base64 -d <<< "$der" > "$work/der"
  sha256_of "$work/der"
  for print in "${key_prints[@]:1}"; do
    # A site's key that is given twice is one key.
    [[ $print != "$REPLY" ]] || return 0
  done
  key_raws+=("$raw") key_prints+=("$REPLY") key_pems+=("$work/key-${#key_pems[@]}.pem")
  printf %s "$pem" > "${key_pems[-1]}"
}

# ---- Notes -----------------------------------------------------------------------------------------------------------

declare -A key_hash=()

# Takes a checkpoint with its signatures apart: origin, size, root and lines; the text that is signed goes into a file.
# False where it is not in its one form.
read_note() {  # TEXT
  local lines line again
  mapfile -t lines <<< "${1%$'\n'}"
  (( ${#1} <= MAX_NOTE_BYTES && ${#lines[@]} >= 5 && ${#lines[@]} <= 104 )) || return 1
  note_origin=${lines[0]} note_size=${lines[1]}
  printf -v again '%s\n' "${lines[@]}"
  [[ $again == "$1" && -z ${lines[3]} ]] && is_signer "$note_origin" && is_number "$note_size" &&
    is_hash "${lines[2]}" || return 1
  note_root=$REPLY
  note_lines=()
  for line in "${lines[@]:4}"; do
    is_signature_line "$line" || return 1
  done
  printf '%s\n' "${lines[@]:0:3}" > "$work/note"
}

note_in() {  # PATH
  (( ${file_size[$1]} <= MAX_NOTE_BYTES )) && text_of "$export/$1" && read_note "$REPLY"
}

is_signer() { [[ -n $1 && $1 != *[!!-~]* && $1 != *+* ]]; }

# 32 bytes in base64; in hexadecimal into REPLY.
is_hash() {
  [[ ${#1} == 44 && $1 == *[!=]= ]] && is_base64 "$1" && hex_of_base64 "$1"
}

# Dash, name, and base64 of 4 bytes that name the key and of the signature. Two lines of one key contradict each other.
is_signature_line() {
  local dash name value rest
  IFS=' ' read -r dash name value rest <<< "$1"
  [[ $1 == "$dash $name $value" && $dash == $'\xe2\x80\x94' ]] && is_signer "$name" && is_base64 "$value" || return 1
  hex_of_base64 "$value"
  (( ${#REPLY} > 8 )) || return 1
  for rest in "${note_lines[@]}"; do
    [[ $rest != "$name ${REPLY:0:8}"* ]] || return 1
  done
  note_lines+=("$name $REPLY")
}

# Finds the line of a key in the note that was read last; what follows the name of the key into REPLY. Kinds of keys: 01
# signs its own log, 04 is a witness.
signature_by() {  # NAME KIND KEY_NUMBER
  local line name="$1 $2 $3"
  if [[ -z ${key_hash[$name]:-} ]]; then
    REPLY=$({ printf '%s\n' "$1"; write_hex "$2${key_raws[$3]}"; } | sha256sum)
    key_hash[$name]=${REPLY:0:8}
  fi
  for line in "${note_lines[@]}"; do
    if [[ $line == "$1 ${key_hash[$name]}"* ]]; then
      REPLY=${line#"$1 ${key_hash[$name]}"}
      return 0
    fi
  done
  return 1
}

signed_by_owner() {  # KEY_NUMBER SIGNATURE
  [[ ${#2} == 128 ]] || return 1
  write_hex "$2" > "$work/signature"
  verifies "${key_pems[$1]}" "$work/note" "$work/signature"
}

# A witness signs 8 bytes of time as well. False where it has no date; then what it says cannot be told.
cosignature_time() {  # SIGNATURE
  [[ ${#1} == 144 ]] || return 0
  [[ ${1:0:16} < $YEAR_10000 ]] && cosigned_at=$(( 16#${1:0:16} ))
}

cosigned_by() {  # KEY_NUMBER SIGNATURE
  [[ ${#2} == 144 ]] || return 1
  write_hex "${2:16}" > "$work/signature"
  text_of "$work/note"
  printf 'cosignature/v1\ntime %s\n%s' "$cosigned_at" "$REPLY" > "$work/signed"
  verifies "${key_pems[$1]}" "$work/signed" "$work/signature"
}

# ---- Trees -----------------------------------------------------------------------------------------------------------
# node[LOG/LEVEL/INDEX] is the hash of a complete subtree. A whole level is hashed at once, one file for each node.

declare -A node=() root=()

node_hash() {  # LEFT RIGHT
  REPLY=$(write_hex "01$1$2" | sha256sum)
  REPLY=${REPLY%% *}
}

grow_tree() {  # LOG SIZE
  local log=$1 count=$2 level=0 index
  local -a files
  mkdir "$work/nodes"
  while (( count > 1 )); do
    count=$(( count / 2 ))
    files=()
    for (( index = 0; index < count; index++ )); do
      files+=("$work/nodes/$index")
      write_hex "01${node[$log/$level/$(( 2 * index ))]}${node[$log/$level/$(( 2 * index + 1 ))]}" > "${files[-1]}"
    done
    sha256_of_all "${files[@]}"
    level=$(( level + 1 ))
    for (( index = 0; index < count; index++ )); do node[$log/$level/$index]=${REPLIES[index]}; done
  done
  rm -r "$work/nodes"
}

# Root of the tree over the first SIZE entries: the complete subtrees that make it up, joined from the right.
root_at() {  # LOG SIZE
  local -a peaks=()
  local level start=0 index
  REPLY=${root[$1/$2]:-}
  [[ -z $REPLY ]] || return 0
  for (( level = 62; level >= 0; level-- )); do
    if (( $2 >> level & 1 )); then
      peaks+=("${node[$1/$level/$(( start >> level ))]}")
      start=$(( start + (1 << level) ))
    fi
  done
  if (( $2 == 0 )); then sha256_of /dev/null; else REPLY=${peaks[-1]}; fi
  for (( index = ${#peaks[@]} - 2; index >= 0; index-- )); do
    node_hash "${peaks[index]}" "$REPLY"
  done
  root[$1/$2]=$REPLY
}

# ---- The files of a log ----------------------------------------------------------------------------------------------

declare -A origin=() log_size=() entry_hash=()

# C2SP tlog-tiles: three digits an element of the path; a tile that is not full says how many hashes or entries it has.
tile_path() {  # LEVEL INDEX WIDTH
  local rest=$2
  printf -v REPLY %03d $(( rest % 1000 ))
  while (( rest = rest / 1000, rest > 0 )); do
    printf -v REPLY 'x%03d/%s' $(( rest % 1000 )) "$REPLY"
  done
  REPLY=tile/$1/$REPLY
  (( $3 == 256 )) || REPLY+=.p/$3
}

# Calls FUNCTION LOG PATH INDEX WIDTH LEVEL for each tile of a level (or of `entries`) that has COUNT hashes (entries).
each_tile() {  # FUNCTION LOG LEVEL COUNT
  local index width
  for (( index = 0; index <= ($4 - 1) / 256 && $4 > 0; index++ )); do
    width=$(( $4 - index * 256 ))
    (( width <= 256 )) || width=256
    tile_path "$3" "$index" "$width"
    "$1" "$2" "$2/$REPLY" "$index" "$width" "$3"
  done
}

# Stops at the first tile that is not there: a checkpoint may claim any size.
tile_is_there() { need "$2" tiles-missing "$of_whom"; }

# Cuts a bundle (length in two bytes, entry; again) into files: of entries, and of what RFC 6962 hashes into leaves.
cut_bundle() {
  local log=$1 first=$(( $3 * 256 )) number left=${file_size[$2]} length
  local -a entries=() leaves=()
  exec 3< "$export/$2"
  for (( number = first; number < first + $4; number++ )); do
    (( left >= 2 )) || stop entry-cut "$2 ends before entry $number; ask $of_whom for it"
    read_byte
    length=$(( REPLY * 256 ))
    read_byte
    length=$(( length + REPLY )) left=$(( left - 2 ))
    (( left >= length )) || stop entry-cut "$2 ends amid entry $number; ask $of_whom for it"
    entries+=("$work/$log/$number") leaves+=("$work/$log/$number.leaf")
    copy_bytes "$length" > "${entries[-1]}"
    if [[ -n $REPLY ]]; then printf '\0%s' "$REPLY"; else printf '\0'; cat "${entries[-1]}"; fi > "${leaves[-1]}"
    left=$(( left - length ))
  done
  (( left == 0 )) || stop entry-surplus "$2 goes on after its last entry; ask $of_whom for it"
  sha256_of_all "${entries[@]}"
  for (( number = 0; number < $4; number++ )); do entry_hash[$log/$(( first + number ))]=${REPLIES[number]}; done
  sha256_of_all "${leaves[@]}"
  for (( number = 0; number < $4; number++ )); do node[$log/0/$(( first + number ))]=${REPLIES[number]}; done
  rm -- "${leaves[@]}"
}

hash_tile_fits() {
  local number expected=
  for (( number = $3 * 256; number < $3 * 256 + $4; number++ )); do expected+=${node[$1/$(( 8 * $5 ))/$number]}; done
  write_hex "$expected" > "$work/tile"
  cmp -s -- "$work/tile" "$export/$2" ||
    stop hash-tile "$2 does not hold the hashes of the entries; one or the other was changed"
}

# Checkpoint, tiles, root: that the entries in the export are those, and all those, that the log's owner has signed for.
check_tree() {  # LOG NAME KEY_NUMBER
  local log=$1 count level signed_root of_whom='whoever made this export'
  need "$log/checkpoint" checkpoint-missing "$of_whom"
  note_in "$log/checkpoint" || stop checkpoint-form "$log/checkpoint is not a checkpoint in its one form"
  origin[$log]=casam-fed/$log/$2/${key_prints[$3]:0:12}
  [[ $note_origin == "${origin[$log]}" ]] ||
    stop checkpoint-origin "$log/checkpoint is of the log $note_origin, not of ${origin[$log]}, which this key signs"
  signature_by "$note_origin" 01 "$3" || stop checkpoint-key "$log/checkpoint bears no signature of the key given"
  signed_by_owner "$3" "$REPLY" || stop checkpoint-signature "the signature of $log/checkpoint does not fit"
  log_size[$log]=$note_size signed_root=$note_root
  each_tile tile_is_there "$log" entries "$note_size"
  for (( level = 0, count = note_size; count > 0; level++, count /= 256 )); do
    each_tile tile_is_there "$log" "$level" "$count"
  done
  mkdir "$work/$log"
  each_tile cut_bundle "$log" entries "$note_size"
  grow_tree "$log" "$note_size"
  for (( level = 0, count = note_size; count > 0; level++, count /= 256 )); do
    each_tile hash_tile_fits "$log" "$level" "$count"
  done
  root_at "$log" "$note_size"
  [[ $REPLY == "$signed_root" ]] || stop root "the entries of the $log log are not those of its checkpoint"
}

# ---- Entries ---------------------------------------------------------------------------------------------------------

declare -A event=()
checked_signatures=0 checked_events=0

# The fields of an entry into e_*; "-" stands for what its kind of event does not have.
event_at() {  # LOG INDEX
  read -r e_event e_log e_sequence e_previous e_time e_key e_release e_card e_statement e_payload e_message e_receipt \
    e_federation e_site e_task e_size e_entry e_decision e_outcome e_code e_intent e_backbone e_app e_approved e_by \
    e_objects \
    <<< "${event[$1/$2]}"
}

# Signatures one by one; then what all payloads say, by one call of jq; then what is wrong, in the order of the log.
check_entries() {  # LOG KEY_NUMBER
  local log=$1 size=${log_size[$1]} index wrong= sentence= last=
  local -a payloads=() answers=()
  : > "$work/payloads"
  for (( index = 0; index < size; index++ )); do
    check_signature "$work/$log/$index" "$2" || break
    payloads+=("$REPLY")
    # jq reads by lines; a payload that is not text in one line is compared, and found wrong, below.
    [[ $REPLY != *[!$' \t\r\n'!-~]* ]] || REPLY=
    printf '%s\n' "${REPLY//[$'\t\r\n']/ }" >> "$work/payloads"
  done
  judge "$EVENT" "$work/payloads"
  answers=("${REPLIES[@]}")
  (( ${#answers[@]} == 2 * ${#payloads[@]} )) || exit 1
  for (( index = 0; index < ${#payloads[@]}; index++ )); do
    check_event "$log" "$index" "$2" "${payloads[index]}" "${answers[2 * index]}" "${answers[2 * index + 1]}"
  done
  (( index == size )) || stop "$wrong" "entry $index of the $log log $sentence"
}

# The signature of one entry, its payload into REPLY; else the code into `wrong`.
check_signature() {  # FILE KEY_NUMBER
  if ! text_of "$1" || ! read_envelope "$REPLY"; then
    wrong=entry-form sentence='is not an envelope in its one form'
  elif [[ $type != "$INTOTO" ]]; then
    wrong=entry-type sentence="is of another type than $INTOTO"
  elif [[ $key_id != "${key_prints[$2]}" ]]; then
    wrong=entry-key sentence='was signed with another key than the one of this log'
  else
    decode_envelope "$work/entry"
    if verifies "${key_pems[$2]}" "$work/entry.signed" "$work/entry.signature"; then
      checked_signatures=$(( checked_signatures + 1 ))
      return 0
    fi
    wrong=entry-signature sentence='bears a signature that does not fit'
  fi
  return 1
}

check_event() {  # LOG INDEX KEY_NUMBER PAYLOAD CANONICAL ANSWER
  local log=$1 index=$2 this="entry $2 of the $1 log"
  [[ $6 != newer ]] || stop newer-event "$this is in a form that this version does not know; use a newer one"
  [[ $6 == good\ * && $5 == "$4" ]] || stop event-form "$this is not an event in its one form"
  event[$log/$index]=${6#good }
  event_at "$log" "$index"
  [[ $e_sequence == "$index" ]] || stop sequence "$this says that it is entry $e_sequence"
  (( index == 0 )) || [[ $e_previous == "${entry_hash[$log/$(( index - 1 ))]}" ]] ||
    stop chain "$this does not name the entry before it; one was changed, taken out or put in"
  [[ ! $e_time < $last ]] || stop clock "$this says that it was written before the entry before it"
  last=$e_time
  [[ $e_log == "${origin[$log]}" ]] || stop foreign "$this was written for another log, $e_log"
  [[ $log != site || $e_federation == - || $e_federation == "$federation" ]] ||
    stop foreign "$this speaks of another federation, $e_federation"
  checked_events=$(( checked_events + 1 ))
  [[ $e_event == began ]] || return 0
  [[ $e_key == "${key_prints[$3]}" ]] || stop foreign "$this begins the log of another key"
  if [[ $log == site ]]; then [[ $e_site == "$site" ]]; else [[ $e_federation == "$federation" ]]; fi ||
    stop foreign "$this begins the log of another party"
}

# ---- Events in their order -------------------------------------------------------------------------------------------

out_of_order() { stop event-order "entry $index of the $log log ($e_event) cannot stand where it stands: $1"; }

begins_once() {
  if [[ $e_event == began ]]; then (( index == 0 )); else (( index > 0 )); fi || out_of_order "a log begins once"
}

declare -A may_leave=() approvals=() approvals_at=() intents=() intended=() sent_at=() last_receipt=()
intent_indexes=() receipt_indexes=() approved_releases=() decided_releases=()

check_site_order() {
  local log=site index size=${log_size[site]}
  (( size > 0 )) || stop event-order "the site log is empty; it does not even say whose it is"
  for (( index = 0; index < size; index++ )); do
    event_at site "$index"
    begins_once
    case $e_event in
      approved)
        may_leave[$e_release]=yes
        [[ -n ${approvals_at[$e_release]:-} ]] || approved_releases+=("$e_release")
        approvals_at[$e_release]+=" $index"
        approvals[$e_release]+=" $e_statement/$e_size " ;;
      declined) may_leave[$e_release]= ;;
      intent)
        intended[$index]=$e_objects
        intent_indexes+=("$index")
        [[ $e_release == - ]] && continue
        [[ -n ${may_leave[$e_release]:-} ]] ||
          stop not-approved "entry $index of the site log lets $e_release go, which nobody had approved"
        intents[$e_release]=$index ;;
      sent)
        [[ -n ${intended[$e_intent]:-} ]] || out_of_order "entry $e_intent is no intent before it"
        [[ -z ${sent_at[$e_intent]:-} ]] || out_of_order "what entry $e_intent announced was sent already"
        [[ ,${intended[$e_intent]}, == *,$e_message,* ]] || out_of_order "entry $e_intent announced another message"
        sent_at[$e_intent]=$e_time ;;
      receipt)
        [[ -n ${intents[$e_release]:-} ]] || out_of_order "the release that was decided upon had not left"
        [[ -n ${last_receipt[$e_release]:-} ]] || decided_releases+=("$e_release")
        last_receipt[$e_release]=$index
        receipt_indexes+=("$index") ;;
    esac
  done
}

declare -A enrolled=() ever_enrolled=() keys_of=() newest=() offered_under=() admitted_under=()
admitted=() kept_indexes=() unchecked=()

check_bank_order() {
  local log=bank index size=${log_size[bank]} entries=0
  local -A in_force=() facts_of=()
  (( size > 0 )) || stop event-order "the bank log is empty; it does not even say whose it is"
  for (( index = 0; index < size; index++ )); do
    event_at bank "$index"
    begins_once
    case $e_event in
      enrolled)
        enrolled[$e_key]=$e_site
        # The newest key of a site stands first.
        keys_of[$e_site]="$e_key ${keys_of[$e_site]:-}"
        [[ -n ${ever_enrolled[$e_site/$e_key]:-} ]] || ever_enrolled[$e_site/$e_key]=$index ;;
      revoked)
        [[ ${enrolled[$e_key]:-} == "$e_site" ]] || out_of_order "that key is not enrolled"
        unset "enrolled[$e_key]" ;;
      quarantined)
        offered_under[$e_release/$e_site]=${keys_of[$e_site]:-}
        kept_indexes+=("$index") ;;
      admitted)
        [[ $e_entry == "$entries" ]] || out_of_order "the next entry of the bank is $entries"
        [[ -z ${in_force[$e_task]:-} ]] || out_of_order "the task is in force already"
        in_force[$e_task]=yes
        facts_of[$entries]="$e_release $e_site $e_task"
        # A person may admit what came while an earlier key of the site was in force.
        admitted_under[$index]=${keys_of[$e_site]:-}
        [[ $e_by == rule ]] || admitted_under[$index]=${offered_under[$e_release/$e_site]-${keys_of[$e_site]:-}}
        admitted+=("$index") kept_indexes+=("$index")
        entries=$(( entries + 1 )) ;;
      retired)
        [[ ${facts_of[$e_entry]:-} == "$e_release $e_site $e_task" ]] || out_of_order "no such entry is in force"
        unset "facts_of[$e_entry]" "in_force[$e_task]" ;;
    esac
    case $e_event in admitted | quarantined | refused | retired) newest[$e_release/$e_site]=$e_event ;; esac
  done
}

# ---- Witnesses -------------------------------------------------------------------------------------------------------
# Each party keeps the last checkpoint of the other's log that the other had cosigned. Who rewrites his log afterwards
# cannot rewrite that.

# Checks the note that witness NAME keeps; the keys are those that may have cosigned it, by number.
check_witness() {  # LOG FILE OWNER_KEY_NUMBER WITNESS_NAME WITNESS_KEY_NUMBER...
  local log=$1 file=$2 owner=$3 name=$4 key found= signature when
  shift 4
  note_in "$file" || stop cosignature-form "$file is not a checkpoint in its one form"
  [[ $note_origin == "${origin[$log]}" ]] || stop cosignature-form "$file is a checkpoint of another log"
  # Without the owner's signature a witness alone could accuse the owner of a fork.
  signature_by "$note_origin" 01 "$owner" || stop cosignature-key "$file bears no signature of the log's own key"
  signed_by_owner "$owner" "$REPLY" || stop cosignature-signature "the log's own signature on $file does not fit"
  for key in "$@"; do
    if signature_by "$name/${key_prints[key]:0:12}" 04 "$key"; then found=$key; break; fi
  done
  [[ -n $found ]] || stop cosignature-key "$file bears no cosignature of the keys given"
  signature=$REPLY
  cosignature_time "$signature" || stop cosignature-form "$file bears a cosignature of an impossible time"
  cosigned_by "$found" "$signature" || stop cosignature-signature "the cosignature on $file does not fit"
  cosigned_size=$note_size
  (( note_size <= ${log_size[$log]} )) ||
    stop fork "the $log log was seen with $note_size entries, and now has ${log_size[$log]}: entries were taken out"
  root_at "$log" "$note_size"
  [[ $REPLY == "$note_root" ]] ||
    stop fork "the first $note_size entries of the $log log are not those that were witnessed: they were changed"
  when=$(date -u -d "@$cosigned_at" +%Y-%m-%dT%H:%M:%SZ)
  say "the $log log: its first $note_size of ${log_size[$log]} entries were witnessed by ${name#casam-fed/*/} at $when"
}

# The bank log in a site's export: the site's own cosignature. In a bank's: that of every site whose key is given.
check_bank_witnesses() {
  local name print key
  local -a sorted given=()
  if [[ $kind == site ]]; then
    need "bank/witnessed/$site" cosignature-missing "the site"
    # A site that has changed its keys cosigns with the newest.
    for (( key = 1; key < ${#key_prints[@]}; key++ )); do given+=("$key"); done
    check_witness bank "bank/witnessed/$site" 0 "casam-fed/site/$site" "${given[@]}"
    return
  fi
  cosigned_size=
  mapfile -t sorted < <(printf '%s\n' "${!keys_of[@]}" | sort)
  for name in "${sorted[@]}"; do
    [[ -n $name ]] && have "bank/witnessed/$name" || continue
    given=()
    for print in ${keys_of[$name]}; do
      for key in "${!key_prints[@]}"; do
        [[ $key == 0 || ${key_prints[key]} != "$print" ]] || given+=("$key")
      done
    done
    if (( ${#given[@]} == 0 )); then
      unchecked+=("bank/witnessed/$name")
    else
      check_witness bank "bank/witnessed/$name" 0 "casam-fed/site/$name" "${given[@]}"
    fi
  done
  [[ -n $cosigned_size ]] || stop cosignature-missing "no site whose key was given witnesses the bank log"
}

check_site_witness() {
  local release
  need site/witnessed/bank cosignature-missing "the site"
  check_witness site site/witnessed/bank 1 "casam-fed/bank/$federation" 0
  for release in "${!intents[@]}"; do
    (( ${intents[$release]} < cosigned_size )) || [[ -z ${admitted_here[$release]:-} ]] ||
      stop cosignature-stale "the bank has not yet witnessed entry ${intents[$release]} of the site log, which let go \
what it admitted; let the site meet the bank once more, and export again"
  done
}

declare -A admitted_here=()

# What the bank admitted of the site whose export this is.
collect_admitted() {
  local index
  for index in "${admitted[@]}"; do
    event_at bank "$index"
    [[ $e_site != "$site" ]] || admitted_here[$e_release]=yes
  done
}

# ---- Releases, cards, statements -------------------------------------------------------------------------------------

declare -A checked=()

declare -A card_of=()

# The header of a safetensors file (8 bytes of length, little-endian; JSON; tensors) into REPLY.
header_of() {  # PATH
  local length=0 number
  [[ -n ${file_size[$1]:-} ]] && exec 3< "$export/$1" || return 1
  for (( number = 0; number < 8; number++ )); do
    read_byte || return 1
    # Three bytes are more than a header may have, and the others must not make a number beyond all arithmetic.
    if (( number < 3 )); then length=$(( length + (REPLY << 8 * number) )); else (( REPLY == 0 )) || return 1; fi
  done
  (( length <= MAX_HEADER_BYTES )) && copy_bytes "$length" > /dev/null
}

# The SHA-256 of the cards in many releases, by one call of jq, into card_of[PATH]; nothing where there is no card.
read_cards() {  # PATH...
  local path index
  local -a paths=() lines=() files=()
  : > "$work/headers"
  for path in "$@"; do
    header_of "$path" && [[ -n $REPLY && $REPLY != *[!\ -~]* ]] || continue
    paths+=("$path")
    printf '%s\n' "$REPLY" >> "$work/headers"
  done
  jq -R -r 'try (fromjson.__metadata__ | if keys == ["card"] and (.card | type == "string" and (test("\n") | not))
    then "card " + .card else "none" end) catch "none"' < "$work/headers" > "$work/cards"
  mapfile -t lines < "$work/cards"
  (( ${#lines[@]} == ${#paths[@]} )) || exit 1
  for index in "${!lines[@]}"; do
    files+=("$work/card-$index")
    printf %s "${lines[index]#card }" > "${files[-1]}"
  done
  (( ${#files[@]} == 0 )) || sha256_of_all "${files[@]}"
  for index in "${!lines[@]}"; do
    [[ ${lines[index]} != card\ * ]] || card_of[${paths[index]}]=${REPLIES[index]}
  done
}

check_release() {  # needed OR optional
  local path=releases/$e_release.safetensors card found
  found=${card_of[$path]:-}
  if [[ $1 == optional ]] && ! have "$path"; then return 0; fi
  need_digest "$path" "$e_release" release "whoever made this export"
  (( ${file_size[$path]} == e_size )) ||
    stop release-size "$path has ${file_size[$path]} bytes, and was logged with $e_size"
  # A bank's log does not name the card.
  card=${e_card/#-/$found}
  [[ -n $card ]] || stop card-release "$path holds no card"
  need_digest "cards/$card.json" "$card" card "whoever made this export"
  [[ $card == "$found" ]] || stop card-release "cards/$card.json is not the card in $path"
  checked[$path]=yes checked[cards/$card.json]=yes
}

# The statement of an event, whose fields are in e_*; which key must have signed it is the caller's to say.
check_statement() {  # FUNCTION THAT CHOOSES THE KEY
  local path=statements/$e_statement.json key stated facts="$e_release $e_size"
  check_statement_bytes "$path"
  envelope_in "$path" "$INTOTO" || stop statement-form "$path is not an envelope of a statement in its one form"
  "$1" "$path"
  verifies "${key_pems[key]}" "$work/$e_statement.json.signed" "$work/$e_statement.json.signature" ||
    stop statement-signature "the signature of $path does not fit"
  stated=${said[$path]:-}
  [[ -n $stated ]] || stop statement-form "$path does not hold a statement in its one form"
  if [[ $kind == site ]]; then
    facts+=" $site $e_task $federation $e_backbone $e_app $e_code $e_approved"
  else
    # An event of the bank does not speak of the rest.
    facts+=" $e_site $e_task $federation"
    stated=${stated% * * * *}
  fi
  [[ $stated == "$facts" ]] ||
    stop statement-release "$path speaks of another release than entry $e_sequence of the $kind log"
}

check_statement_bytes() {  # PATH
  need "$1" statement-missing "whoever made this export"
  (( ${file_size[$1]} <= MAX_ENTRY_BYTES )) ||
    stop statement-size "$1 has ${file_size[$1]} bytes; no statement has over $MAX_ENTRY_BYTES"
  need_digest "$1" "$e_statement" statement "whoever made this export"
  checked[$1]=yes
}

key_of_this_site() {
  key=1
  [[ $key_id == "${key_prints[1]}" ]] || stop statement-key "$1 was signed with another key than the site's"
}

key_of_an_enrolled_site() {
  local since=${ever_enrolled[$e_site/$key_id]:-}
  [[ -n $since ]] && (( since < e_sequence )) ||
    stop statement-key "$1 was signed with a key that was not enrolled for $e_site"
  given_key
}

# The number of the key that an envelope names into `key`.
given_key() {
  for (( key = 1; key < ${#key_prints[@]}; key++ )); do
    [[ ${key_prints[key]} != "$key_id" ]] || return 0
  done
  stop key-missing "the key ${key_id:0:12} of $e_site is not among those given; ask that site for it"
}

# Whoever enrols a key of his own for a site can speak in its name: only the site can tell, by handing out the key or
# not. The first key is that of its log, further ones are its earlier keys.
check_keys_of_site() {
  local index under
  for (( index = 2; index < ${#key_prints[@]}; index++ )); do
    [[ -n ${ever_enrolled[$site/${key_prints[index]}]:-} ]] ||
      stop key-missing "the key ${key_prints[index]:0:12} was never enrolled for $site; give its own keys only"
  done
  for index in "${admitted[@]}"; do
    event_at bank "$index"
    under=${admitted_under[$index]%% *}
    [[ $e_site == "$site" && -n $under && " ${key_prints[*]:1} " != *" $under "* ]] || continue
    stop key-missing "entry $index of the bank log admits a release of $site under the key ${under:0:12}; give it \
after the others if the site says that it is its own, else somebody spoke in its name"
  done
}

# An auditor should learn at once that a key is missing; what is wrong with a statement is told when its turn comes.
check_keys_given() {
  local index path key
  for index in "${kept_indexes[@]}"; do
    event_at bank "$index"
    path=statements/$e_statement.json
    if [[ ${file_hash[$path]:-} == "$e_statement" ]] &&
      envelope_in "$path" "$INTOTO" && [[ -n ${ever_enrolled[$e_site/$key_id]:-} ]]; then
      given_key
    fi
  done
}

check_bank_files() {
  local index
  local -a releases=() statements=()
  for index in "${kept_indexes[@]}"; do
    event_at bank "$index"
    releases+=("releases/$e_release.safetensors") statements+=("statements/$e_statement.json")
  done
  read_cards "${releases[@]}"
  read_envelopes "$STATEMENT" "$INTOTO" "${statements[@]}"
  for (( index = 0; index < ${log_size[bank]}; index++ )); do
    event_at bank "$index"
    case $e_event in
      admitted | quarantined)
        # Nobody need keep what was retired, or refused in the end.
        case ${newest[$e_release/$e_site]} in
          admitted | quarantined) check_release needed ;;
          *) check_release optional ;;
        esac
        check_statement key_of_an_enrolled_site ;;
      refused)
        # What was refused may be anything, a statement in no form included.
        if [[ $e_statement != - ]] && have "statements/$e_statement.json"; then
          check_statement_bytes "statements/$e_statement.json"
        fi ;;
    esac
  done
}

# ---- Payloads, receipts, proofs --------------------------------------------------------------------------------------

# All of one kind before the next; approvals and proofs in the order in which their releases first appear.
check_site_files() {
  local index release
  local -a releases=() statements=() receipts=()
  for release in "${approved_releases[@]}"; do
    releases+=("releases/$release.safetensors")
    for index in ${approvals_at[$release]}; do
      event_at site "$index"
      statements+=("statements/$e_statement.json")
    done
  done
  read_cards "${releases[@]}"
  read_envelopes "$STATEMENT" "$INTOTO" "${statements[@]}"
  for release in "${approved_releases[@]}"; do
    for index in ${approvals_at[$release]}; do
      event_at site "$index"
      check_release needed
      check_statement key_of_this_site
    done
  done
  for index in "${intent_indexes[@]}"; do
    event_at site "$index"
    check_payload
  done
  for index in "${receipt_indexes[@]}"; do
    event_at site "$index"
    receipts+=("receipts/$e_receipt.json")
  done
  read_envelopes "$RECEIPT_FORM" "$RECEIPT" "${receipts[@]}"
  for index in "${receipt_indexes[@]}"; do
    event_at site "$index"
    check_receipt
  done
  for release in "${decided_releases[@]}"; do
    event_at site "${last_receipt[$release]}"
    check_proof
  done
}

check_payload() {
  local path=payloads/$e_payload.json
  need_digest "$path" "$e_payload" payload "the site"
  checked[$path]=yes
}

check_receipt() {
  local path=receipts/$e_receipt.json
  need_digest "$path" "$e_receipt" receipt "the site"
  envelope_in "$path" "$RECEIPT" && [[ -n ${said[$path]:-} ]] ||
    stop receipt-form "$path is not an envelope of a receipt in its one form"
  [[ $key_id == "${key_prints[0]}" ]] &&
    verifies "${key_pems[0]}" "$work/$e_receipt.json.signed" "$work/$e_receipt.json.signature" ||
    stop receipt-signature "$path was not signed with the bank's key"
  [[ ${said[$path]} == "$e_release $e_outcome $e_code" ]] ||
    stop receipt-release "$path tells of another decision than entry $e_sequence of the site log"
  checked[$path]=yes
}

# Takes a proof apart (C2SP tlog-proof): index, hashes, and the note.
read_proof() {  # TEXT
  local line hashes=${1%%$'\n\n'*}
  local -a lines
  [[ $1 == *$'\n\n'* ]] || return 1
  mapfile -t lines <<< "$hashes"
  [[ ${lines[0]} == c2sp.org/tlog-proof@v1 && ${lines[1]:-} == index\ * ]] || return 1
  proof_index=${lines[1]#index }
  is_number "$proof_index" && (( ${#lines[@]} <= 65 )) || return 1
  proof_path=()
  for line in "${lines[@]:2}"; do
    is_hash "$line" || return 1
    proof_path+=("$REPLY")
  done
  read_note "${1#*$'\n\n'}" && (( proof_index < note_size ))
}

# RFC 9162, section 2.1.3.2: hashes the entry together with the path, from the leaf up; the root into REPLY. False where
# the path is too long or too short for that place in a log of that size.
climb() {  # LEAF INDEX SIZE HASH...
  local here=$2 last=$(( $3 - 1 )) sibling
  REPLY=$1
  shift 3
  for sibling in "$@"; do
    (( last > 0 )) || return 1
    if (( here & 1 || here == last )); then
      node_hash "$sibling" "$REPLY"
      while (( here > 0 && !(here & 1) )); do here=$(( here >> 1 )) last=$(( last >> 1 )); done
    else
      node_hash "$REPLY" "$sibling"
    fi
    here=$(( here >> 1 )) last=$(( last >> 1 ))
  done
  (( last == 0 ))
}

check_proof() {
  local path=receipts/$e_release.tlog-proof
  need "$path" proof-missing "the site"
  (( ${file_size[$path]} <= MAX_PROOF_BYTES )) && text_of "$export/$path" && read_proof "$REPLY" ||
    stop proof-form "$path is not a proof in its one form"
  [[ $proof_index == "$e_decision" ]] && (( proof_index < ${log_size[bank]} )) ||
    stop proof-index "$path speaks of entry $proof_index of the bank log, not of the decision, entry $e_decision"
  climb "${node[bank/0/$proof_index]}" "$proof_index" "$note_size" "${proof_path[@]}" ||
    stop proof-path "$path has too many or too few hashes for entry $proof_index of $note_size"
  [[ $REPLY == "$note_root" ]] || stop proof-root "$path does not lead from the decision to its checkpoint"
  [[ $note_origin == "${origin[bank]}" ]] && signature_by "$note_origin" 01 0 && signed_by_owner 0 "$REPLY" ||
    stop proof-checkpoint "the checkpoint in $path was not signed with the bank's key"
  (( note_size <= ${log_size[bank]} )) && root_at bank "$note_size" && [[ $REPLY == "$note_root" ]] ||
    stop proof-checkpoint "the checkpoint in $path is not of the history of the bank log"
  checked[$path]=yes
}

# ---- One log against the other ---------------------------------------------------------------------------------------

check_decisions() {
  local index decided
  for index in "${receipt_indexes[@]}"; do
    event_at site "$index"
    decided="$e_outcome $e_release $site"
    (( e_decision < ${log_size[bank]} )) ||
      stop receipt-decision "entry $index of the site log names entry $e_decision of the bank log, which is not there"
    event_at bank "$e_decision"
    # The bank refuses what it has retired.
    [[ "${e_event/#retired/refused} $e_release $e_site" == "$decided" ]] ||
      stop receipt-decision "entry $e_sequence of the bank log is not what entry $index of the site log was told"
  done
}

check_admitted() {
  local index key
  for index in "${admitted[@]}"; do
    event_at bank "$index"
    # What came while another key of this site was in force stands in the log of that key.
    key=${admitted_under[$index]%% *}
    [[ $e_site == "$site" && ( -z $key || $key == "${key_prints[1]}" ) ]] || continue
    [[ -n ${intents[$e_release]:-} ]] ||
      stop admitted-not-sent "entry $index of the bank log admits a release that never left, by the log of the site"
    [[ ${approvals[$e_release]} == *" $e_statement/$e_size "* ]] ||
      stop admitted-other "entry $index of the bank log admits a release with another statement or size than approved"
  done
}

# ---- Everything else -------------------------------------------------------------------------------------------------

check_surplus() {
  local path first=
  for path in "${!file_size[@]}" "${!others[@]}"; do
    [[ -n ${accounted[$path]:-} || ( -n $first && $first < $path ) ]] || first=$path
  done
  [[ -z $first ]] || stop surplus "nothing in the logs accounts for $first; it does not belong into this export"
}

read_manifest() {
  local text
  need export.json no-manifest "whoever made this export"
  (( ${file_size[export.json]} <= MAX_MANIFEST_BYTES )) && text_of "$export/export.json" ||
    stop manifest-form "export.json is not in its form"
  text=$REPLY
  printf '%s\n' "${text//[$' \t\r\n']/ }" > "$work/manifest"
  judge "$MANIFEST" "$work/manifest"
  [[ ${REPLIES[1]:-} != newer ]] ||
    stop newer-format "this export has a newer format than this program knows; use a newer one"
  [[ ${REPLIES[1]:-} == good\ * && ${REPLIES[0]}$'\n' == "$text" ]] ||
    stop manifest-form "export.json is not in its form"
  read -r kind federation site made <<< "${REPLIES[1]#good }"
  if [[ $kind == bank ]]; then site=; fi
}

# ---- What a person reads ---------------------------------------------------------------------------------------------

report_site() {
  local index when
  for (( index = 0; index < ${log_size[site]}; index++ )); do
    event_at site "$index"
    case $e_event in
      approved) say "release $e_release (task $e_task, $e_size bytes) was approved by $e_approved at $e_time" ;;
      intent)
        [[ $e_release != - ]] || continue
        when=${sent_at[$index]:-}
        say "release $e_release was let go at $e_time; ${when:+it left at }${when:-nobody noted that it left}" ;;
      receipt) say "release $e_release was $e_outcome ($e_code), told at $e_time" ;;
    esac
  done
}

report_bank() {
  local index
  for index in "${admitted[@]}"; do
    event_at bank "$index"
    say "release $e_release of $e_site (task $e_task) was admitted at $e_time; it is ${newest[$e_release/$e_site]} now"
  done
  for index in "${unchecked[@]}"; do say "not checked, for want of that site's key: $index"; done
}

# ---- Everything, in its order ----------------------------------------------------------------------------------------

usage() {
  printf 'usage: bash verify.sh EXPORT BANK_KEY.pem [SITE_KEY.pem...]\n' >&2
  concluded=yes
  exit 2
}

need_tools() {
  local tool
  for tool in openssl jq base64 sha256sum sort find xargs cmp cat date mktemp; do
    command -v "$tool" > /dev/null || stop internal "this program needs $tool; install it, or use casam-audit"
  done
  [[ $(openssl version) == OpenSSL\ [3-9].* ]] || stop internal "this program needs openssl 3; use casam-audit"
}

read_keys() {  # FILE...
  local number
  read_key "$1" "the bank"
  for (( number = 2; number <= $#; number++ )); do read_key "${!number}" "site $(( number - 1 ))"; done
}

# Fail closed to the end: the verdict is only spoken when the numbers of what was checked are those of what there is.
count_again() {
  local path
  (( checked_signatures == log_size[bank] + ${log_size[site]:-0} && checked_events == checked_signatures )) || exit 1
  for path in "${!accounted[@]}"; do
    case $path in
      export.json | VERIFY.md | verify.sh | bank/* | site/*) ;;
      *) [[ -n ${checked[$path]:-} ]] || exit 1 ;;
    esac
  done
}

main() {
  # Whoever ends this program may do so while stdout is led elsewhere.
  exec 9>&1
  trap on_exit EXIT
  trap 'exit 1' HUP INT TERM
  (( $# >= 2 )) || usage
  need_tools
  work=$(mktemp -d)
  read_keys "${@:2}"
  [[ -d $1 ]] || stop empty "there is no folder $1; give the folder of the export"
  export=$(cd -- "$1" && pwd -P)
  list_export
  (( ${#file_size[@]} + ${#others[@]} > 0 )) || stop empty "the folder $1 is empty; give the folder of the export"
  hash_export
  read_manifest
  [[ $kind == bank || ${#key_prints[@]} -ge 2 ]] ||
    stop key-missing "an export of a site is verified with the key of that site; give that one"

  check_tree bank "$federation" 0
  check_entries bank 0
  check_bank_order
  [[ $kind == site ]] || check_keys_given
  check_bank_witnesses
  if [[ $kind == site ]]; then
    collect_admitted
    check_tree site "$site" 1
    check_entries site 1
    check_site_order
    check_site_witness
    check_keys_of_site
    check_site_files
    check_decisions
    check_admitted
  else
    check_bank_files
  fi
  have VERIFY.md || true
  have verify.sh || true
  check_surplus
  count_again

  "report_$kind"
  (( ${#report[@]} == 0 )) || printf '%s\n' "${report[@]}"
  printf 'verified: this export of %s, made at %s: %s entries of the bank log, %s of the site log, %s files\n' \
    "${site:-$federation}" "$made" "${log_size[bank]}" "${log_size[site]:-0}" "${#accounted[@]}"
  concluded=yes
}

# Tests call single functions.
[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
