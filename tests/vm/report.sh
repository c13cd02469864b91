# What a scenario can say to the host: one line each to $REPORT. Everything else it prints is on the console. $VM is the
# folder of this file.
. "$VM/shape.env"
if [ -e "$VM/runtime.env" ]; then . "$VM/runtime.env"; fi

# What is to be done at the end is done then, too.
trap 'exit 1' TERM

report() {
    printf '%s\n' "$*" >>"$REPORT"
}

# say TEXT...: words for whoever watches.
say() {
    report "say $*"
}

# check NAME EXPECTED SEEN: both must be the same text.
check() {
    if [ "$2" = "$3" ]; then
        report "check pass $1"
    else
        report "check fail $1: expected \"$2\", saw \"$3\""
    fi
}

# send NAME FILE: the host gets the file under that name.
send() {
    { printf 'file %s ' "$1"; base64 -w0 "$2"; echo; } >>"$REPORT"
}

# entry INDEX LIST: one entry of a list that is separated by spaces, counted from 0.
entry() {
    echo "$2" | cut -d' ' -f$(($1 + 1))
}

# cpus_of NODE: the CPUs that the shape declares for a node.
cpus_of() {
    eval "echo \$NODE_$1_CPUS"
}
