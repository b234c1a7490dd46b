#!/bin/sh
# Run a command in a Slurm of one host, on loopback: tools/slurm.sh COMMAND...
# Needs Debian's slurm-wlm and munge (apt-get install slurm-wlm munge), and root, as slurmd does.
# Everything is in a temporary folder and ends with the command. Exit status 77: Slurm cannot be started.
set -u
for each in munged slurmctld slurmd sinfo; do
    command -v $each > /dev/null || { echo "skipped: $each is not installed; run: apt-get install slurm-wlm munge"; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "skipped: slurmd needs root"; exit 77; }

CONF=/etc/slurm/slurm.conf
[ -e "$CONF" ] && { echo "skipped: there is a $CONF: this host belongs to a cluster"; exit 77; }
rm -f "$CONF" # a link that a killed run has left
FOLDER=$(mktemp -d /tmp/slurm.XXXXXX)
chmod 755 "$FOLDER"
HOST=$(hostname -s)
cleanup() {
    for each in slurmd slurmctld munged; do
        [ -f "$FOLDER/$each.pid" ] && kill "$(cat "$FOLDER/$each.pid")" 2> /dev/null
    done
    sleep 1
    rm -rf "$FOLDER"
    [ -L "$CONF" ] && rm "$CONF"
}
trap cleanup EXIT

dd if=/dev/urandom of="$FOLDER/munge.key" bs=1024 count=1 2> /dev/null
chmod 400 "$FOLDER/munge.key"
munged --force --key-file="$FOLDER/munge.key" --socket="$FOLDER/munge.socket" --pid-file="$FOLDER/munged.pid" \
    --log-file="$FOLDER/munged.log" --seed-file="$FOLDER/munge.seed" || { echo "skipped: munged does not start"; exit 77; }

mkdir "$FOLDER/state" "$FOLDER/spool"
MEMORY=$(awk '/MemTotal/ {print int($2 / 1024 * 0.95)}' /proc/meminfo)
cat > "$FOLDER/slurm.conf" << CONF
ClusterName=loopback
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=${SLURMCTLD_PORT:-26817}
SlurmdPort=${SLURMD_PORT:-26818}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$FOLDER/munge.socket
CredType=cred/munge
StateSaveLocation=$FOLDER/state
SlurmdSpoolDir=$FOLDER/spool
SlurmctldPidFile=$FOLDER/slurmctld.pid
SlurmdPidFile=$FOLDER/slurmd.pid
SlurmctldLogFile=$FOLDER/slurmctld.log
SlurmdLogFile=$FOLDER/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MinJobAge=600
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$(nproc --all) RealMemory=$MEMORY State=UNKNOWN
PartitionName=main Nodes=$HOST Default=YES MaxTime=INFINITE State=UP
CONF
# The executor starts the steps of a job by srun without SLURM_CONF: the file has to be where srun looks.
mkdir -p /etc/slurm && ln -s "$FOLDER/slurm.conf" "$CONF" || { echo "skipped: $CONF cannot be written"; exit 77; }
slurmctld && slurmd || { tail -n 3 "$FOLDER"/slurm*.log; echo "skipped: Slurm does not start"; exit 77; }
for _ in $(seq 30); do
    sinfo --noheader --format=%T 2> /dev/null | grep -q -E 'idle|mixed' && break
    sleep 1
done
sinfo --noheader --format=%T | grep -q -E 'idle|mixed' || {
    tail -n 5 "$FOLDER"/slurm*.log
    echo "skipped: the node of Slurm does not come up"
    exit 77
}
"$@"
