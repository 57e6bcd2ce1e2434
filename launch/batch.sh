# Sourced by the batch script of every submitted job, which launch/submission.py lets submitit write around its own srun line:
#
#     . SNAPSHOT/launch/batch.sh
#     while begin; do
#     srun ... PYTHON -u -m submitit.core._submit FOLDER
#     after $? || break
#     done
#     exit $code
#
# `begin` names the start of the ranks (ACSAR_TAG = JOB.RESTART.ROUND) and looks at the nodes; `after` has launch/aftermath.py decide
# what the end of the ranks means, and does it. Python asks Slurm nothing: in a container it could not.
# Given: ACSAR_LOGS, the unit's logs folder; ACSAR_PYTHON, the shell words that start Python.
# Exit codes of the job: 0 done, 2 the user can mend it, 75 goes on later (this job again, or another one), else a crash.

set +e # a failing srun must reach `after`, whatever a profile's lines have set
trap : TERM # time limit, scancel: there is a moment before the KILL, for `after`
export SLURM_EXPORT_ENV=ALL # the ranks get what was exported before
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it over by itself

job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}
restart=${SLURM_RESTART_COUNT:-0}
here=${SLURMD_NODENAME:-$(hostname)}
round=0
code=1
fewer=() # words for srun once a host was left out of this allocation

say() { echo "--- $(date '+%F %T') ${ACSAR_TAG:-$job}: $*"; }

run_python() { eval "$ACSAR_PYTHON -P"' "$@"'; }

# In the background: bash acts on a TERM while it waits, not while a command runs, and hung ranks leave it no other moment.
srun() {
    local code
    command srun ${fewer[@]+"${fewer[@]}"} "$@" &
    wait $!
    code=$?
    while kill -0 $! 2> /dev/null && ! ending; do # somebody's TERM, and the ranks go on
        wait $!
        code=$?
    done
    return $code
}

# Name the next start of the ranks. False when a node cannot take part.
begin() {
    round=$((round + 1))
    export ACSAR_TAG=$job.$restart.$round
    say "starts on $SLURM_JOB_NUM_NODES node(s), $SLURM_JOB_NODELIST${fewer[*]:+, with ${fewer[*]}}; this script runs on $here"
    started=$SECONDS
    if [ "$round" = 1 ] && ! look_at_nodes; then
        after 2
        return 1
    fi
}

# What the end of the ranks with exit code $1 means, and do it. True when they are to be started again, else `code` is the job's.
after() {
    local -a words
    code=$1
    trap '' TERM # what is started from here on must not be stopped half-way
    read -r -a words <<< "$(decide "$code")"
    case ${words[0]:-} in
        again)
            [ "${#words[@]}" = 1 ] || fewer=("${words[@]:1}")
            trap : TERM
            [ $((SECONDS - started)) -gt 120 ] || sleep $((5 * round)) # what passes by itself must not use up all tries in a minute
            return 0
            ;;
        requeue)
            code=75
            requeue
            ;;
        resubmit)
            code=75
            run_python -m launch.resubmit "$ACSAR_LOGS" "${words[@]:1}" || say "no new job; launch/retry.py goes on with the run"
            ;;
        done | stop) code=${words[1]} ;;
        *) say "launch/aftermath.py came to no decision: the job ends with code $code; launch/retry.py goes on with the run" ;;
    esac
    return 1
}

decide() {
    export ACSAR_SECONDS=$((SECONDS - started)) ACSAR_FEWER="${fewer[*]:-}" ACSAR_REFUSED=${refused:-} ACSAR_JOB ACSAR_USABLE
    ACSAR_JOB=$(facts)
    ACSAR_USABLE=$(timeout 20 sinfo --noheader --responding --states=idle,alloc,mix,comp --partition="$SLURM_JOB_PARTITION" --format=%N)
    run_python -m launch.aftermath "$ACSAR_LOGS" "$1" | tail -n 1
}

# What Slurm says of this job, in one line; "silent" when it has not answered for a minute, nothing where it cannot be asked.
facts() {
    local pause
    command -v scontrol > /dev/null || return 0
    for pause in 0 5 10 15; do
        sleep "$pause"
        timeout 10 scontrol show job --oneliner "$job" && return
    done
    echo silent
}

# Slurm says that the job is over, or about to be.
ending() { case " $(facts) " in *" JobState=RUNNING "* | " silent " | "  ") false ;; esac }

# Put this job back into the queue, once: Slurm then ends this script. Never a job that was cancelled or is queued already.
requeue() {
    local known=" $(facts) "
    case $known in
        *" Restarts=$restart "*) ;;
        *" Restarts="*) say "is in the queue already" && return ;;
        *) say "cannot be put back into the queue from here; launch/retry.py goes on with the run" && return ;;
    esac
    case $known in
        *" JobState=RUNNING "* | *" JobState=COMPLETING Reason=TimeLimit "*) ;;
        *) say "is not put back into the queue: it was ended" && return ;;
    esac
    say "goes back into the queue"
    timeout 30 scontrol requeue "$job" || say "Slurm does not put it back into the queue; launch/retry.py goes on with the run"
}

# Every node must see a file that this one writes into the logs, and find Python. What is wrong is said in `refused`.
look_at_nodes() {
    local token=$ACSAR_LOGS/.$ACSAR_TAG answers host fault blind='' bare=''
    eval "set -- $ACSAR_PYTHON"
    [ "${1#/}" != "$1" ] || set -- / # only a path can be looked for: the words may be a container's, or a function of the profile's
    if ! : > "$token"; then
        refused="$here: $ACSAR_LOGS cannot be written"
        return 1
    fi
    answers=$(timeout 60 srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        --chdir=/ --input=none \
        sh -c 'fault=none; [ -x "$2" ] || fault=bare; [ -e "$1" ] || fault=blind; echo "$SLURMD_NODENAME $fault"' look "$token" "$1")
    rm -f "$token"
    while read -r host fault; do
        case $fault in
            blind) blind+="$host " ;;
            bare) bare+="$host " ;;
        esac
    done <<< "$answers"
    refused="${blind:+${blind% }: $ACSAR_LOGS is not there: the folder of runs must be on a disk that all nodes share}"
    refused+="${blind:+${bare:+; }}${bare:+${bare% }: $1 is not there: Python must be found on all nodes}"
    [ -z "$refused" ]
}
