#!/usr/bin/env bash
# Verifies the bytes of an audit export of casam-fed, without casam-fed, and without anything that it is written in.
#
#     bash verify.sh EXPORT BANK_KEY.pem [SITE_KEY.pem...]
#
# The keys are public Ed25519 keys in PEM form, which the auditor must have from the parties themselves: no export can
# vouch for its own keys. For the export of a site give the key of its log and, after it, its earlier keys, if it had
# any; for that of a bank the keys of all sites with a release in it.
#
# Proved, where the last line says `verified: bytes`:
#   - the entries of a log are those, and all those, that its owner has signed, in their order, each naming the one
#     before; and what the other party has cosigned of them was not written anew since;
#   - every release, card, statement, text and decision that an entry names is there, bit for bit, and nothing else is;
#     a statement is signed by the site, and is about that release; a decision is signed by the bank;
#   - by the log of the site, nothing left that had not been approved, or had been declined since; what the bank
#     admitted in its name had left; and the log of the bank holds the decisions that the site was told.
# Left to `casam-audit verify`: the story of events. That each kind of event has the details that belong to it, that its
# statement has the same, and that it could happen when it did. docs/reference/casam-audit.md of the project lists what
# only casam-audit finds, and explains the codes in `failed [CODE]: ...` (exit code 1) and `incomplete [CODE]: ...` (2).
#
# Needs bash 4.4, openssl 3, jq 1.6, GNU find and coreutils; writes nothing but a temporary folder. Forms: DSSE 1.0,
# in-toto Statement v1, RFC 6962; C2SP signed-note, tlog-checkpoint, tlog-cosignature v1, tlog-tiles and tlog-proof.

set -euo pipefail
# Text is bytes here, and the caller's surroundings may not tell openssl or the coreutils to do otherwise.
export LC_ALL=C OPENSSL_CONF=/dev/null
unset CDPATH GLOBIGNORE POSIXLY_CORRECT OPENSSL_MODULES
shopt -s inherit_errexit && shopt -u nocasematch

readonly MAX_KEY_BYTES=1023 MAX_MANIFEST_BYTES=65536 MAX_NOTE_BYTES=16384 MAX_ENTRY_BYTES=65535 MAX_PROOF_BYTES=19347
readonly MAX_HEADER_BYTES=1048576 MAX_FILE_BYTES=134217728
# The one form of base64: no line breaks, and no bits left over at the end. HASH is that of 32 bytes.
readonly ONE='[A-Za-z0-9+/][AQgw]==' TWO='[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]='
readonly BASE64="([A-Za-z0-9+/]{4})*($ONE|$TWO)?" HASH="([A-Za-z0-9+/]{4}){10}$TWO"
# Eighteen digits are within all arithmetic, and more than any log has entries.
readonly NUMBER='(0|[1-9][0-9]{0,17})' LINE=$'\n'

# ---- Verdicts --------------------------------------------------------------------------------------------------------
concluded= work= report=()

# Whatever ends this program before it has come to a verdict, an error in itself included, must not look like success.
on_exit() {
  [[ -z $work ]] || rm -rf -- "$work"
  [[ -n $concluded ]] || { printf 'failed [internal]: stopped before all was checked; see above\n' >&9; exit 1; }
}

# What is not there, or not for this program to read, leaves the question open; all other codes say that it is answered.
# Sentences quote what others wrote: what does not print could move the cursor, or write a verdict of its own.
stop() {  # CODE SENTENCE
  local verdict=(failed 1) open='key-form empty no-manifest newer-format newer-event'
  [[ " $open " != *" $1 "* && ( $1 != *-missing || $1 == cosignature-missing ) ]] || verdict=(incomplete 2)
  concluded=yes
  printf '%s [%s]: %s\n' "${verdict[0]}" "$1" "${2//[^ -~]/?}" >&9
  exit "${verdict[1]}"
}

# ---- The folder ------------------------------------------------------------------------------------------------------
# Only plain files count as there: a link leads out of the export, and a pipe never ends. Nor does one whose name has
# other characters than these: no log can speak of it, and no line below can take it for something else.
declare -A size_of=() hash_of=() accounted=()

list_export() {
  local value path plain=(-type f -regex '[A-Za-z0-9._/-]*')
  find . ! -type d ! \( "${plain[@]}" \) -printf '%P\0' > "$work/strange"
  find . "${plain[@]}" -printf '%s ./%P\n' > "$work/sizes"
  # What is larger than anything that an entry names would be read for as long as whoever put it there likes.
  find . "${plain[@]}" -size "-$(( MAX_FILE_BYTES + 1 ))c" -exec sha256sum {} + > "$work/hashes"
  mapfile -d '' -t strange < "$work/strange"
  while read -r value path; do size_of[${path#./}]=$value; done < "$work/sizes"
  while read -r value path; do hash_of[${path#./}]=$value; done < "$work/hashes"
}

need() {  # PATH CODE
  local link
  if [[ -n ${size_of[$1]:-} ]]; then accounted[$1]=yes; return; fi
  for link in "${strange[@]}"; do [[ $1 != "$link"/* ]] || stop surplus "$link leads out of this export"; done
  stop "$2" "$1 is missing; ask whoever made this export for it"
}

need_digest() {  # PATH DIGEST ROLE
  need "$1" "$3-missing"
  [[ ${hash_of[$1]:-} == "$2" ]] || stop "$3-digest" "$1 is not what its name says; it was changed"
}

# ---- Bytes and keys --------------------------------------------------------------------------------------------------
hex() { basenc --base16 -w 0 | tr A-F a-f; }
unhex() { tr a-f A-F | basenc --base16 -d; }
# FILE MOST_BYTES: its text into REPLY; false where it is too long, or where `read` has come upon a NUL.
text_of() { REPLY= && ! IFS= read -r -d '' -n $(( $2 + 1 )) REPLY < "$1"; }

# SHA-256 of all files of a folder of this program's own, in the order of their names, into HASHES; the folder goes.
hash_all() {  # FOLDER
  local hashes
  hashes=$(cd "$1" && find . -type f -print0 | sort -z | xargs -0 -r sha256sum | cut -c 1-64)
  HASHES=($hashes)
  rm -r "$1"
}

verifies() {  # KEY_NUMBER MESSAGE, of which the signature is in the file `signature`
  openssl pkeyutl -verify -pubin -inkey "$work/key-$1.pem" -rawin -in "$2" -sigfile "$work/signature" > /dev/null 2>&1
}

# Points whose order divides 8, as RFC 8032 writes them, those beyond the prime and both signs included: with such a key
# anybody can sign anything.
readonly EIGHTH='26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc[08]5'
readonly OTHER_EIGHTH='c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03[7f]a'
readonly SMALL_ORDER="^(0[01]0{60}[08]0|e[cde]f{60}[7f]f|$EIGHTH|$OTHER_EIGHTH)$"
# RFC 8410: what says Ed25519, 32 bytes, in base64; the key itself follows.
readonly ED25519='MCowBQYDK2VwAyEA'
readonly PEM="^-----BEGIN PUBLIC KEY-----$LINE$ED25519($HASH)$LINE-----END PUBLIC KEY-----$LINE$"
prints=()  # fingerprints: number 0 is the bank's, the sites' follow

read_key() {  # FILE
  local raw print key=$work/key-${#prints[@]} bad="$1 is no Ed25519 public key in PEM form; ask for the file again"
  [[ -f $1 && -r $1 ]] && text_of "$1" "$MAX_KEY_BYTES" && [[ $REPLY =~ $PEM ]] || stop key-form "$bad"
  raw=${BASH_REMATCH[1]}
  printf %s "$REPLY" > "$key.pem"
  base64 -d <<< "$raw" > "$key.raw"
  [[ ! $(hex < "$key.raw") =~ $SMALL_ORDER ]] || stop key-form "$bad"
  print=$(base64 -d <<< "$ED25519$raw" | sha256sum | cut -c 1-64)
  # A site's key that is given twice is one key.
  [[ " ${prints[*]:1} " == *" $print "* ]] || prints+=("$print")
}

# ---- Checkpoints -----------------------------------------------------------------------------------------------------
readonly SIGNER='[!-*,-~]+'
readonly SIGNATURE=$'\xe2\x80\x94'" ($SIGNER) ($BASE64)"
readonly NOTE="^($SIGNER)$LINE$NUMBER$LINE($HASH)$LINE$LINE(($SIGNATURE$LINE)+)$"

# Takes a checkpoint apart: origin, size, root, an empty line; then, for each signature, a dash, who signed, and base64
# of 4 bytes that name the key and of the signature. False where it is not, or one key has two lines.
read_note() {  # TEXT
  local line name names=' ' lines
  (( ${#1} <= MAX_NOTE_BYTES )) && [[ $1 =~ $NOTE ]] || return 1
  note_origin=${BASH_REMATCH[1]} note_size=${BASH_REMATCH[2]} lines=${BASH_REMATCH[5]} note_signatures=()
  note_root=$(base64 -d <<< "${BASH_REMATCH[3]}" | hex)
  printf '%s\n' "${1%%$'\n\n'*}" > "$work/note"
  while read -r line; do
    [[ $line =~ ^$SIGNATURE$ ]] || return 1
    line=$(base64 -d <<< "${BASH_REMATCH[2]}" | hex)
    name=${BASH_REMATCH[1]}+${line:0:8}
    [[ ${#line} -gt 8 && $names != *" $name "* ]] || return 1
    names+="$name " note_signatures+=("$name ${line:8}")
  done <<< "${lines%"$LINE"}"
  (( ${#note_signatures[@]} <= 100 ))
}

# What a key has put under that checkpoint, in hexadecimal. Kinds of keys: 1 signs its own log, 4 cosigns another.
signature_by() {  # NAME KIND KEY_NUMBER
  local line name
  name=$1+$({ printf '%s\n' "$1"; printf "\\00$2"; cat "$work/key-$3.raw"; } | sha256sum | cut -c 1-8)
  for line in "${note_signatures[@]}"; do [[ $line != "$name "* ]] || { REPLY=${line##* }; return; }; done
  return 1
}

check_owner() {  # FILE KEY_NUMBER CODE_WITHOUT_SIGNATURE CODE_WITH_ANOTHER
  signature_by "$note_origin" 1 "$2" || stop "$3" "$1 bears no signature of the log's own key"
  unhex <<< "$REPLY" > "$work/signature"
  [[ ${#REPLY} == 128 ]] && verifies "$2" "$work/note" || stop "$4" "the log's own signature on $1 does not fit"
}

# ---- The files of a log, and their tree (RFC 6962, section 2.1) ------------------------------------------------------
declare -A node=() origin=() log_size=()

# node[LOG/LEVEL/INDEX] is the hash of a complete subtree, at level 0 of an entry. A level is hashed at once: one
# process for each node would take longer than all signatures.
grow_tree() {  # LOG, whose leaves are in HASHES
  local level index
  for (( level = 0; ; level++ )); do
    for index in "${!HASHES[@]}"; do node[$1/$level/$index]=${HASHES[index]}; done
    (( ${#HASHES[@]} > 1 )) || break
    mkdir "$work/nodes"
    printf '01%s%s' "${HASHES[@]:0:${#HASHES[@]} / 2 * 2}" | unhex | split -b 65 -a 9 -d - "$work/nodes/"
    hash_all "$work/nodes"
  done
}

# The root of the tree over the first SIZE entries into REPLY: its complete subtrees, joined from the right; into `path`
# what leads from entry INDEX to it (C2SP tlog-proof): on each level, the neighbour of what holds the entry.
root_at() {  # LOG SIZE [INDEX]
  local level complete neighbour right=
  path=()
  for (( level = 0; $2 >> level > 0; level++ )); do
    complete=$(( $2 >> level )) neighbour=$(( (${3:-0} >> level) ^ 1 ))
    if (( neighbour < complete )); then path+=("${node[$1/$level/$neighbour]}"); fi
    if (( neighbour == complete )) && [[ -n $right ]]; then path+=("$right"); fi
    (( complete & 1 )) || continue
    REPLY=${node[$1/$level/$(( complete - 1 ))]}
    [[ -z $right ]] || REPLY=$(unhex <<< "01$REPLY$right" | sha256sum | cut -c 1-64)
    right=$REPLY
  done
  REPLY=${right:-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855}
}

# Calls FUNCTION LOG PATH FIRST COUNT LEVEL for each tile of a level, or of `entries` (C2SP tlog-tiles), up to the first
# that is not there, whatever size a checkpoint claims.
each_tile() {  # FUNCTION LOG LEVEL COUNT
  local first count rest path
  for (( first = 0; first < $4; first += 256 )); do
    count=$(( $4 - first < 256 ? $4 - first : 256 )) rest=$(( first / 256 ))
    printf -v path %03d $(( rest % 1000 ))
    while (( (rest /= 1000) > 0 )); do printf -v path x%03d/%s $(( rest % 1000 )) "$path"; done
    path=$2/tile/$3/$path
    (( count == 256 )) || path+=.p/$count
    need "$path" tiles-missing
    "$1" "$2" "$path" "$first" "$count" "$3"
  done
}

# Cuts a bundle (length in two bytes, entry; again) into files: entries, and what RFC 6962 hashes into leaves. Variables
# hold no NUL, so each byte is written \ooo, which printf turns back.
cut_bundle() {  # LOG PATH FIRST COUNT
  local bytes length name number
  (( ${size_of[$2]} <= 256 * (MAX_ENTRY_BYTES + 2) )) || stop entry-surplus "$2 is larger than its entries can be"
  od -A n -v -t o1 -- "$2" | tr -d '\n' | tr ' ' '\\' > "$work/bytes"
  exec 3< "$work/bytes"
  for (( number = $3; number < $3 + $4; number++ )); do
    read -r -N 8 -u 3 bytes || stop entry-cut "$2 ends before entry $number"
    length=$(( 8#${bytes:1:3} * 256 + 8#${bytes:5:3} )) bytes=
    (( length == 0 )) || read -r -N $(( 4 * length )) -u 3 bytes || stop entry-cut "$2 ends amid entry $number"
    printf -v name %09d "$number"
    printf "$bytes" > "$work/$1.entries/$name"
    printf "\\000$bytes" > "$work/$1.leaves/$name"
  done
  ! read -r -N 1 -u 3 || stop entry-surplus "$2 goes on after its last entry"
}

check_hash_tile() {  # LOG PATH FIRST COUNT LEVEL
  local index expected=
  for (( index = $3; index < $3 + $4; index++ )); do expected+=${node[$1/$(( 8 * $5 ))/$index]}; done
  (( ${size_of[$2]} == 32 * $4 )) && [[ $(hex < "$2") == "$expected" ]] || stop hash-tile "$2 holds other hashes"
}

# Checkpoint, tiles, root: that the entries in the export are those, and all those, that the log's owner has signed for.
check_tree() {  # LOG NAME KEY_NUMBER
  local log=$1 file=$1/checkpoint root level count
  need "$file" checkpoint-missing
  text_of "$file" "$MAX_NOTE_BYTES" && read_note "$REPLY" || stop checkpoint-form "$file is not in its one form"
  origin[$log]=casam-fed/$log/$2/${prints[$3]:0:12} log_size[$log]=$note_size root=$note_root
  [[ $note_origin == "${origin[$log]}" ]] || stop checkpoint-origin "$file is of $note_origin, not of ${origin[$log]}"
  check_owner "$file" "$3" checkpoint-key checkpoint-signature
  mkdir "$work/$log.entries" "$work/$log.leaves"
  each_tile cut_bundle "$log" entries "$note_size"
  hash_all "$work/$log.leaves"
  grow_tree "$log"
  for (( level = 0, count = note_size; count > 0; level++, count /= 256 )); do
    each_tile check_hash_tile "$log" "$level" "$count"
  done
  root_at "$log" "$note_size"
  [[ $REPLY == "$root" ]] || stop root "the entries of the $log log are not those of its checkpoint"
}

# ---- What is signed --------------------------------------------------------------------------------------------------
readonly STATEMENT='application/vnd.in-toto+json' RECEIPT='application/vnd.casam-fed.receipt+json'
# DSSE, in the one way in which casam-fed writes it: 1 is the payload, 4 its type, 5 the key, 6 the signature.
readonly SIGNATURES="\[\{\"keyid\":\"([0-9a-f]*)\",\"sig\":\"($BASE64)\"\}\]"
readonly ENVELOPE="^\{\"payload\":\"($BASE64)\",\"payloadType\":\"([^\"\\\\]*)\",\"signatures\":$SIGNATURES\}$"

# Checks an envelope, whose signature covers DSSE's PAE, and appends its payload as a line to a file from which jq reads
# it; one with a NUL in it is no JSON. The keys that may have signed are looked for from number FIRST on: no list in the
# bank's log makes the bank's own key, number 0, that of a site. The codes: form, type, key, signature.
open_envelope() {  # FILE TYPE FIRST KEYS LINES CODE CODE CODE CODE
  local head text padding number this=${1#"$work/"} payload type key signature
  text_of "$1" "$MAX_ENTRY_BYTES" && [[ $REPLY != *[!\ -~]* && $REPLY =~ $ENVELOPE ]] ||
    stop "$6" "$this is not an envelope in its one form"
  payload=${BASH_REMATCH[1]} type=${BASH_REMATCH[4]} key=${BASH_REMATCH[5]} signature=${BASH_REMATCH[6]}
  [[ $type == "$2" ]] || stop "$7" "$this is of another type than $2"
  [[ " $4 " == *" $key "* ]] || stop "$8" "$this was signed with another key than it should be"
  for (( number = $3; number < ${#prints[@]}; number++ )); do [[ ${prints[number]} != "$key" ]] || break; done
  (( number < ${#prints[@]} )) || stop key-missing "the key ${key:0:12} was not given; ask its site for it"
  padding=${payload##*[!=]}
  printf -v head 'DSSEv1 %d %s %d ' ${#type} "$type" $(( ${#payload} / 4 * 3 - ${#padding} ))
  { printf %s "$head"; base64 -d <<< "$payload"; } > "$work/signed"
  base64 -d <<< "$signature" > "$work/signature"
  verifies "$number" "$work/signed" || stop "$9" "the signature of $this does not fit"
  if IFS= read -r -d '' text < "$work/signed"; then text='no text'; fi
  printf '%s\n' "${text#"$head"}" >> "$work/$5"
}

readonly FORMS='
# In jq 1.6 a bare `try` also catches what goes wrong, or breaks off, long after it.
def sound(condition): [try condition catch false] == [true];
def is(re): type == "string" and test("\\A(?:" + re + ")\\z");
def name: is("[A-Za-z0-9][A-Za-z0-9._-]{0,62}");
def digest: is("[0-9a-f]{64}");
# jq reads numbers as doubles: up to 2^53 they are exact, and written without point or exponent.
def number: type == "number" and (tojson | test("\\A(0|[1-9][0-9]*)\\z")) and . < 9007199254740992;
# A time that no calendar has comes back as another.
def time: is("[0-9-]{10}T[0-9:]{8}Z") and sound(. == (strptime("%Y-%m-%dT%H:%M:%SZ") | mktime | todate));
# No free text, in which anything could be hidden.
def plain: name or digest or number or . == "" or (type == "array" and length <= 512
  and all(.[]; keys == ["bytes", "id"] and (.id | digest) and (.bytes | number)));
def event: sound(keys == ["_type", "predicate", "predicateType", "subject"]
  and ._type == "https://in-toto.io/Statement/v1" and .predicateType == "https://casam-fed.github.io/log-entry/v1"
  and (.predicate | (.event | name) and (.sequence | number) and (.time | time)
    and (.log | is("casam-fed/(site|bank)/[A-Za-z0-9][A-Za-z0-9._-]{0,62}/[0-9a-f]{12}"))
    and (.previous | . == "" or digest) and (.sequence == 0) == (.previous == "")
    and all(del(.log, .time)[]; plain) and all(keys[]; is("[a-z_]{1,20}")))
  and (.subject | length > 0 and (map(.name) | . == unique) and all(.[];
    keys == ["digest", "name"] and (.name | name) and (.digest | keys == ["sha256"] and (.sha256 | digest)))));
def newer: sound(.predicateType | is("https://casam-fed[.]github[.]io/log-entry/v[0-9]{1,4}") and (test("/v1$") | not));
# An event in one level: its facts, and in `of` what it speaks of.
def flat: .predicate + {of: (.subject | map({(.name): .digest.sha256}) | add)};
'

# JSON is in its one form where it is what jq writes: sorted names, no spaces, nothing twice.
in_one_form() {  # FILE LINES
  jq -c -S . "$1" > "$work/again" 2> /dev/null && cmp -s -- "$1" "$work/again" && (( $(wc -l < "$1") == $2 ))
}

# Runs a program that finds what is wrong, `CODE SENTENCE`. Where it finds nothing it has to say so.
judge() {  # PROGRAM ARGUMENT OF JQ...
  local found
  found=$(jq -n -r "$FORMS first(($1), \"nothing\")" --arg federation "$federation" --arg site "$site" "${@:2}")
  [[ $found == nothing ]] || stop "${found%% *}" "${found#* }"
}

check_entries() {  # LOG KEY_NUMBER
  local file lines=$work/$1.lines
  : > "$lines"
  (( log_size[$1] == 0 )) || for file in "$work/$1.entries"/*; do
    open_envelope "$file" "$STATEMENT" "$2" "${prints[$2]}" "$1.lines" entry-{form,type,key,signature}
  done
  [[ $(jq -n "$FORMS any(inputs; newer)" "$lines" 2> /dev/null || :) != true ]] ||
    stop newer-event "entries of the $1 log are in a form that this program does not know"
  in_one_form "$lines" "${log_size[$1]}" || stop event-form "an entry of the $1 log is not JSON in its one form"
  hash_all "$work/$1.entries"
  printf '"%s"\n' "${HASHES[@]}" > "$work/hashes"
  judge '
    [inputs] as $events | if $events == [] then "event-order the \($log) log is empty" else empty end,
    (range($events | length) as $index | $events[$index] as $event | $event.predicate as $says
      | (if ($event | event | not) then "event-form another form than that of an event:"
        elif $says.sequence != $index then "sequence it says that it is entry \($says.sequence):"
        elif $index > 0 and $says.previous != $hashes[$index - 1] then "chain another one is named as the one before:"
        elif $index > 0 and $says.time < $events[$index - 1].predicate.time then "clock it is older than the last:"
        elif $says.log != $origin or ($says.federation // $federation) != $federation or ($says.event == "began" and
          (($event | flat).of.key != $key or ($log == "site" and $says.site != $site))) then
          "foreign it was written for another log, federation, site or key:"
        elif ($says.event == "began") != ($index == 0) then "event-order a log begins once, at its beginning:"
        else empty end) + " entry \($index) of the \($log) log")
    ' --arg log "$1" --arg origin "${origin[$1]}" --arg key "${prints[$2]}" --slurpfile hashes "$work/hashes" "$lines"
  # In an event of a bank also the keys that were enrolled for its site until then, the newest last, and the one under
  # which its release was offered: a person may admit what came before the site changed its keys.
  jq -n -c "$FORMS"'
    foreach (inputs | flat) as $event ({enrolled: {}, offered: {}};
      ($event.site // "") as $site | "\($site)/\($event.of.release)" as $release
      | if $event.event == "enrolled" then .enrolled[$site] |= (. // []) - [$event.of.key] + [$event.of.key] else . end
      | .keys = (.enrolled[$site] // []) | .under = (.keys[-1] // "")
      | if $event.event == "quarantined" then .offered[$release] = .under
        elif $event.event == "admitted" and $event.by == "person" then .under = (.offered[$release] // .under)
        else . end;
      $event + {keys, under})' "$lines" > "$work/$1.events"
}

# ---- Witnesses -------------------------------------------------------------------------------------------------------
# Checks the last checkpoint of a log that the other party has cosigned: who rewrites his log afterwards cannot rewrite
# that. The keys that may have cosigned it are looked for as in `open_envelope`.
check_witness() {  # LOG FILE OWNER_KEY_NUMBER WITNESS FIRST KEYS
  local log=$1 file=$2 key time given=() found=
  need "$file" cosignature-missing
  for (( key = $5; key < ${#prints[@]}; key++ )); do [[ " $6 " != *" ${prints[key]} "* ]] || given+=("$key"); done
  (( ${#given[@]} > 0 )) || { report+=("not checked, for want of that site's key: $file"); return; }
  text_of "$file" "$MAX_NOTE_BYTES" && read_note "$REPLY" && [[ $note_origin == "${origin[$log]}" ]] ||
    stop cosignature-form "$file is not a checkpoint of this log in its one form"
  # Without the owner's signature a witness alone could accuse the owner of a fork.
  check_owner "$file" "$3" cosignature-key cosignature-signature
  for key in "${given[@]}"; do signature_by "$4/${prints[key]:0:12}" 4 "$key" && found=$key && break; done || :
  [[ -n $found ]] || stop cosignature-key "$file bears no cosignature of the keys given"
  # 8 bytes of time, and 64 of a signature that covers it; the year 10000 and what follows have no date.
  [[ ${#REPLY} == 144 ]] || stop cosignature-signature "the cosignature on $file is cut"
  [[ ${REPLY:0:16} < 0000003afff44180 ]] || stop cosignature-form "$file bears a cosignature of an impossible time"
  time=$(( 16#${REPLY:0:16} ))
  unhex <<< "${REPLY:16}" > "$work/signature"
  { printf 'cosignature/v1\ntime %d\n' "$time"; cat "$work/note"; } > "$work/signed"
  verifies "$found" "$work/signed" || stop cosignature-signature "the cosignature on $file does not fit"
  (( note_size <= log_size[$log] )) && root_at "$log" "$note_size" && [[ $REPLY == "$note_root" ]] ||
    stop fork "the first $note_size entries of the $log log are not those that were witnessed: they were changed"
  time=$(date -u -d "@$time" +%Y-%m-%dT%H:%M:%SZ)
  witnessed=yes report+=("the first $note_size of ${log_size[$log]} entries of the $log log, cosigned by $4 at $time")
}

check_witnesses_of_bank() {
  local name keys witnessed=
  jq -n -r '[inputs | select(.event == "enrolled")] | group_by(.site)[]
    | "\(.[0].site) \(map(.of.key) | join(" "))"' "$work/bank.events" > "$work/enrolled"
  while read -r -u 3 name keys; do
    [[ -z ${size_of[bank/witnessed/$name]:-} ]] ||
      check_witness bank "bank/witnessed/$name" 0 "casam-fed/site/$name" 1 "$keys"
  done 3< "$work/enrolled"
  [[ -n $witnessed ]] || stop cosignature-missing "no site whose key was given has cosigned the bank log"
}

# ---- What entries name -----------------------------------------------------------------------------------------------
# A line for each file: `release DIGEST SIZE CARD NEEDED`, `statement DIGEST KEYS`, `refused DIGEST`, `payload DIGEST`,
# `receipt DIGEST`, `proof RELEASE DECISION`, the last one about that release. A bank need not keep what it has retired,
# or refused in the end, and its log does not name the card; what it has refused may be anything.
check_files() {
  local role digest facts path details=
  jq -n -r --arg key "${prints[1]:-}" '
    def kept: .event | IN("admitted", "quarantined"); def decision: "\(.site)/\(.of.release)";
    [inputs] | (map(select(.of.release) | {(decision): kept}) | add) as $kept
    | (.[] | if .event == "approved" then
          "release \(.of.release) \(.size) \(.of.card) needed", "statement \(.of.statement) \($key)"
        elif kept then
          "release \(.of.release) \(.size) - \(if $kept[decision] then "needed" else "-" end)",
          "statement \(.of.statement) \(.keys | join(" "))"
        elif .event == "refused" and .of.statement then "refused \(.of.statement)"
        elif .event == "intent" then "payload \(.of.payload)"
        elif .event == "receipt" then "receipt \(.of.receipt)" else empty end),
      (map(select(.event == "receipt")) | group_by(.of.release)[][-1] | "proof \(.of.release) \(.decision)")
    ' "$work/$kind.events" > "$work/files"
  : > "$work/statement.lines" > "$work/receipt.lines"
  while read -r -u 3 role digest facts; do
    path=${role/refused/statement}s/$digest.json
    case $role in
      release) check_release "$digest" $facts ;;
      refused) [[ -z ${size_of[$path]:-} ]] || need_digest "$path" "$digest" statement ;;
      statement)
        (( ${size_of[$path]:-0} <= MAX_ENTRY_BYTES )) || stop statement-size "$path has over $MAX_ENTRY_BYTES bytes"
        need_digest "$path" "$digest" statement
        open_envelope "$path" "$STATEMENT" 1 "$facts" statement.lines statement-{form,form,key,signature} ;;
      payload) need_digest "$path" "$digest" payload ;;
      receipt)
        need_digest "$path" "$digest" receipt
        open_envelope "$path" "$RECEIPT" 0 "${prints[0]}" receipt.lines receipt-{form,form,signature,signature} ;;
      proof) check_proof "receipts/$digest.tlog-proof" "$facts" ;;
    esac
  done 3< "$work/files"
  # A site's event does not name the site, a bank's not the rest.
  [[ $kind == bank ]] || details=', .backbone, .app, .code, .approved'
  check_said statement "[.subject[0].digest.sha256] + (.predicate | [.federation, .site, .task, .size$details])" \
    "select(.of.statement and .event != \"refused\")
      | [.of.release, \$federation, .site // \$site, .task, .size$details]"
  check_said receipt 'if .sequence | . == null or number then [.digest, .outcome, .code] else error end' \
    'select(.event == "receipt") | [.of.release, .outcome, .code]'
}

check_said() {  # ROLE WHAT_THEY_SAY WHAT_ENTRIES_SAY
  local lines=$work/$1.lines
  in_one_form "$lines" "$(wc -l < "$lines")" || stop "$1-form" "a $1 is not JSON in its one form"
  jq -c "$FORMS $2" "$lines" > "$work/said" 2> /dev/null || stop "$1-form" "a $1 is not in its form"
  jq -c --arg federation "$federation" --arg site "$site" "$3" "$work/$kind.events" > "$work/logged"
  cmp -s "$work/said" "$work/logged" || stop "$1-release" "a $1 speaks of something else than the entry that names it"
}

# The header of a safetensors file (8 bytes of length, little-endian; JSON; tensors) holds the card, and nothing more.
check_release() {  # DIGEST SIZE CARD NEEDED
  local path=releases/$1.safetensors length card=
  [[ $4 == needed || -n ${size_of[$path]:-} ]] || return 0
  need_digest "$path" "$1" release
  [[ ${size_of[$path]} == "$2" ]] || stop release-size "$path has ${size_of[$path]} bytes, and was logged with $2"
  length=$(head -c 8 -- "$path" | od -A n -t u8 --endian=little | tr -d ' ')
  if [[ $length =~ ^[0-9]{1,7}$ ]] && (( length <= MAX_HEADER_BYTES && 8 + length <= $2 )); then
    head -c $(( 8 + length )) -- "$path" | tail -c "$length" > "$work/header"
    jq -s -j "$FORMS"'select(length == 1)[0].__metadata__ | select(keys == ["card"]).card | select(is("[ -~]+"))' \
      "$work/header" > "$work/card" 2> /dev/null || : > "$work/card"
    [[ ! -s $work/card ]] || card=$(sha256sum < "$work/card" | cut -c 1-64)
  fi
  [[ -n $card && ( $3 == - || $card == "$3" ) ]] || stop card-release "$path does not hold the card that was approved"
  need_digest "cards/$card.json" "$card" card
}

# There is one way from an entry to the root of a tree of that size: the one that this log has itself.
check_proof() {  # PATH DECISION
  local index hashes expected path
  need "$1" proof-missing
  text_of "$1" "$MAX_PROOF_BYTES" &&
    [[ ${REPLY%%$'\n\n'*} =~ ^c2sp.org/tlog-proof@v1${LINE}index\ $NUMBER(($LINE$HASH)*)$ ]] ||
    stop proof-form "$1 is not in its one form"
  index=${BASH_REMATCH[1]} hashes=${BASH_REMATCH[2]}
  read_note "${REPLY#*$'\n\n'}" && (( index < note_size )) || stop proof-form "$1 has no checkpoint in its one form"
  [[ $index == "$2" ]] && (( index < log_size[bank] )) || stop proof-index "$1 is not of entry $2 of the bank log"
  check_owner "$1" 0 proof-checkpoint proof-checkpoint
  [[ $note_origin == "${origin[bank]}" ]] && (( note_size <= log_size[bank] )) &&
    root_at bank "$note_size" "$index" && [[ $REPLY == "$note_root" ]] ||
    stop proof-checkpoint "the checkpoint in $1 is not of the history of the bank log"
  (( ${#hashes} == 45 * ${#path[@]} )) || stop proof-path "$1 has too many or too few hashes"
  for expected in "${path[@]}"; do
    [[ $(base64 -d <<< "${hashes:1:44}" | hex) == "$expected" ]] || stop proof-root "$1 does not lead to its root"
    hashes=${hashes:45}
  done
}

# ---- One log against the other ---------------------------------------------------------------------------------------
# Whoever enrols a key of his own for a site can speak in its name: only the site can tell, by handing out the key or
# not. What came under an earlier key of the site stands in the log of that key. The bank refuses what it has retired.
check_site() {  # ENTRIES OF ITS LOG THAT THE BANK HAS COSIGNED
  judge '
    $ARGS.positional as $given
    | ($site_log | map(select(.event == "intent" and .of.release) | {(.of.release): .sequence}) | add // {}) as $left
    | [$site_log[] | select(.event == "approved") | [.of.release, .of.statement, .size]] as $approved
    | [$bank_log[] | select(.event == "enrolled" and .site == $site) | .of.key] as $enrolled
    | [$bank_log[] | select(.event == "admitted" and .site == $site)] as $admitted
    | foreach $site_log[] as $event ({};
        if $event.event == "approved" then .[$event.of.release] = true
        elif $event.event == "declined" then .[$event.of.release] = false else . end;
        if $event.event == "intent" and $event.of.release and (.[$event.of.release] | not) then
          "not-approved entry \($event.sequence) of the site log lets go what nobody had approved, or somebody declined"
        else empty end),
      ($admitted[] | $left[.of.release] | select(. >= $seen)
      | "cosignature-stale the bank admits what entry \(.) of the site log let go, but has not seen it; sync again"),
      ($given[1:] - $enrolled | .[] | "key-missing the key \(.[:12]) was never enrolled for \($site); give its own"),
      ($admitted[] | .under | select(. != "" and ([.] - $given != []))
      | "key-missing a release was admitted under the key \(.[:12]) of \($site); give it, unless the site disowns it"),
      ($site_log[] | select(.event == "receipt") | [.outcome, .of.release, $site] as $told | .sequence as $index
      | $bank_log[.decision] | [if .event == "retired" then "refused" else .event end, .of.release, .site]
      | select(. != $told) | "receipt-decision the bank log does not hold what the site was told by entry \($index)"),
      ($admitted[] | select(.under == "" or .under == $given[0]) | "entry \(.sequence) of the bank log admits" as $this
      | if $left[.of.release] == null then "admitted-not-sent \($this) what never left, by the log of the site"
        elif [.of.release, .of.statement, .size] | IN($approved[]) then empty
        else "admitted-other \($this) a release with another statement or size than was approved" end)
    ' --slurpfile site_log "$work/site.events" --slurpfile bank_log "$work/bank.events" --argjson seen "$1" \
    --args "${prints[@]:1}"
}

# ---- Everything, in its order ----------------------------------------------------------------------------------------
read_manifest() {
  local answer
  need export.json no-manifest
  (( ${size_of[export.json]} <= MAX_MANIFEST_BYTES )) && answer=$(jq -r "$FORMS"'
    if sound((.format | number) and .format > 1) then "newer"
    elif sound(keys == ["code", "federation", "format", "kind", "made", "site"] and (.format | tojson) == "1"
      and (.made | time) and all(.federation, .code; name)
      and ([.kind, .site] == ["bank", ""] or .kind == "site" and (.site | name)))
    then "\(.kind) \(.federation) \(.site)" else empty end' export.json 2> /dev/null) || answer=
  [[ $answer != newer ]] || stop newer-format "this export has a newer format than this program knows; use a newer one"
  [[ -n $answer ]] && in_one_form export.json 1 || stop manifest-form "export.json is not in its form"
  read -r kind federation site <<< "$answer"
}

main() {
  local key seen path
  (( $# >= 2 )) || { printf 'usage: bash verify.sh EXPORT BANK_KEY.pem [SITE_KEY.pem...]\n' >&2; exit 2; }
  # Whoever ends this program may do so while stdout is led elsewhere.
  exec 9>&1
  trap on_exit EXIT
  trap 'exit 1' HUP INT TERM
  [[ $(openssl version) == OpenSSL\ [3-9].* ]] || stop internal "this program needs openssl 3; use casam-audit"
  # jq would read a ~/.jq of the caller.
  work=$(realpath -- "$(mktemp -d)") HOME=$work
  for key in "${@:2}"; do read_key "$key"; done
  [[ -d $1 ]] && cd -- "$1" || stop empty "there is no folder $1; give the folder of the export"
  list_export
  (( ${#size_of[@]} + ${#strange[@]} > 0 )) || stop empty "the folder $1 is empty; give the folder of the export"
  read_manifest
  check_tree bank "$federation" 0
  check_entries bank 0
  if [[ $kind == site ]]; then
    (( ${#prints[@]} > 1 )) || stop key-missing "an export of a site is verified with the key of that site; give it"
    check_witness bank "bank/witnessed/$site" 0 "casam-fed/site/$site" 1 "${prints[*]:1}"
    check_tree site "$site" 1
    check_entries site 1
    check_witness site site/witnessed/bank 1 "casam-fed/bank/$federation" 0 "${prints[0]}"
    seen=$note_size
    check_files
    check_site "$seen"
  else
    check_files
    check_witnesses_of_bank
  fi
  for path in "${!size_of[@]}"; do
    [[ -n ${accounted[$path]:-} || $path == @(VERIFY.md|verify.sh) ]] || strange+=("$path")
  done
  (( ${#strange[@]} == 0 )) || stop surplus "nothing in the logs accounts for ${strange[0]}; it does not belong here"
  printf 'verified: %s\n' "${report[@]}" bytes
  concluded=yes
}

# Tests call single functions.
[[ ${BASH_SOURCE[0]} != "$0" ]] || main "$@"
