#!/usr/bin/env bash
# A real virtual machine by the Vagrantfile, on a box of its own: up, prices, clients, provision again, halt and up. Where
# there is no hypervisor it is emulated, and a step takes fifteen times as long. What has been done is remembered in
# CRYPTO_STREAM_CACHE/vagrant, so that running this again goes on from there; ANEW=1 begins again.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

release=bookworm
state=$CACHE/vagrant
box=crypto-stream/$release
export VAGRANT_HOME=$state/home VAGRANT_DOTFILE_PATH=$state/machine VAGRANT_CHECKPOINT_DISABLE=1 VAGRANT_NO_COLOR=1
export VAGRANT_DEFAULT_PROVIDER=libvirt VM_BOX=$box MARKET=simulator KAFKA_MODE=kraft
export DASHBOARD_PORT=38501 SPARK_UI_PORT=38080 KAFKA_PORT=39092 CQL_PORT=39042 SSH_PORT=32222

# A hypervisor is used where its module is loaded; a device alone may be somebody else's.
driver=qemu
for module in kvm_intel kvm_amd; do [ ! -e /sys/module/$module ] || driver=kvm; done

# step NAME COMMAND...: run it unless it has been done, and remember how long it took.
step() {
  local name=$1 before=$SECONDS
  if [ -e "$state/done/$name" ]; then
    say "$name: done before, in $(cat "$state/done/$name") s"
    return
  fi
  say "$name ($(date +%H:%M:%S))"
  # In the background, because a command that is tested does not end at its first error.
  "${@:2}" &
  wait $! || die "$name failed: see above. Running this again goes on from there; ANEW=1 begins again."
  echo $((SECONDS - before)) >"$state/done/$name"
}

skip() {
  printf '\nSKIPPED: make test-vagrant has shown nothing: %s\n' "$*" >&2
  exit 0
}

provide_packages() {
  packages qemu-system-x86 qemu-utils seabios ipxe-qemu extlinux syslinux-common fdisk rsync debootstrap \
    vagrant vagrant-libvirt libvirt-daemon-system libvirt-clients libvirt-daemon libvirt-daemon-driver-qemu dnsmasq-base iptables
  # Debian 12's own emulator hangs JDK 8 on two CPUs.
  [ $driver = qemu ] && dpkg --compare-versions "$(dpkg-query -W -f '${Version}' qemu-system-x86)" lt 1:10 || return 0
  local archive
  # shellcheck disable=SC2016 # apt's
  archive=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $release" | head -n 1)
  echo "deb $archive $release-backports main" | as_root tee /etc/apt/sources.list.d/crypto-stream-qemu.list >/dev/null
  as_root apt-get update -q
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends -t $release-backports qemu-system-x86 qemu-utils
}

# A disk with one partition, which boots by extlinux.
make_box() {
  local work=$state/box root=$state/box/root
  as_root rm -rf "$work"
  mkdir -p "$work" "$CACHE/apt/$release"
  as_root debootstrap --variant=minbase --cache-dir="$CACHE/apt/$release" --include="$(
    echo systemd systemd-sysv systemd-resolved systemd-timesyncd libpam-systemd dbus udev kmod initramfs-tools \
      linux-image-cloud-amd64 python3 python3-apt python3-venv sudo iproute2 ca-certificates openssh-server procps rsync \
      curl less | tr ' ' ,
  )" $release "$root"
  as_root tee "$root/etc/fstab" <<<"/dev/vda1 / ext4 defaults 0 1" >/dev/null
  as_root tee "$root/etc/hostname" <<<"crypto-box" >/dev/null
  as_root tee "$root/etc/systemd/network/80-dhcp.network" >/dev/null <<'END'
[Match]
Name=eth0
[Network]
DHCP=ipv4
LinkLocalAddressing=no
[DHCPv4]
ClientIdentifier=mac
[Link]
MTUBytes=1400
END
  # The address of the archive stands once, so that the inventory can name another suite of it.
  local archive
  archive=$(awk '$1 == "deb" { print $2; exit }' "$root/etc/apt/sources.list")
  as_root mkdir -p "$root/etc/apt/mirrors"
  as_root tee "$root/etc/apt/mirrors/debian.list" <<<"$archive" >/dev/null
  as_root tee "$root/etc/apt/sources.list" <<<"deb mirror+file:/etc/apt/mirrors/debian.list $release main" >/dev/null
  # What this machine trusts, and how it reaches its package indexes.
  as_root cp /etc/ssl/certs/ca-certificates.crt "$root/usr/local/share/ca-certificates/machine.crt"
  for file in /etc/pip.conf /etc/apt/apt.conf.d/*proxy*; do [ ! -e "$file" ] || as_root cp "$file" "$root$file"; done
  as_root tee "$root/finish" >/dev/null <<'END'
set -e
update-ca-certificates
useradd --create-home --shell /bin/bash vagrant
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/vagrant
echo 'UseDNS no' >>/etc/ssh/sshd_config
systemctl enable systemd-networkd systemd-resolved ssh
rm -f /etc/ssh/ssh_host_* /finish
mkdir -p /etc/systemd/system/ssh.service.d
printf '[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\n' >/etc/systemd/system/ssh.service.d/keys.conf
install -d -o vagrant -g vagrant -m 700 /home/vagrant/.ssh
apt-get clean
END
  as_root chroot "$root" sh /finish
  as_root cp "$(dpkg -L vagrant | grep '/keys/vagrant.pub$')" "$root/home/vagrant/.ssh/authorized_keys"
  as_root chroot "$root" chown vagrant:vagrant /home/vagrant/.ssh/authorized_keys
  as_root tee "$root/boot/extlinux.conf" >/dev/null <<'END'
DEFAULT linux
LABEL linux
  KERNEL /vmlinuz
  INITRD /initrd.img
  APPEND root=/dev/vda1 rw net.ifnames=0 mitigations=off console=ttyS0,115200
END
  truncate --size=20G "$work/part"
  as_root mkfs.ext4 -q -d "$root" -O ^64bit,^metadata_csum "$work/part"
  mkdir "$work/mount"
  as_root mount -o loop "$work/part" "$work/mount"
  as_root extlinux --install "$work/mount/boot"
  as_root umount "$work/mount"
  truncate --size=$((20 * 1024 + 2))M "$work/disk"
  sfdisk --quiet "$work/disk" <<<'2048,,L,*'
  dd if="$work/part" of="$work/disk" bs=1M seek=1 conv=notrunc,sparse status=none
  dd if=/usr/lib/syslinux/mbr/mbr.bin of="$work/disk" bs=440 count=1 conv=notrunc status=none
  qemu-img convert -O qcow2 "$work/disk" "$work/box.img"
  echo '{"provider": "libvirt", "format": "qcow2", "virtual_size": 21}' >"$work/metadata.json"
  # What the machine it runs on can do is no matter of the Vagrantfile.
  cat >"$work/Vagrantfile" <<END
Vagrant.configure("2") do |config|
  config.vm.boot_timeout = 1800
  config.vm.provider "libvirt" do |machine|
    machine.driver = "$driver"
    machine.cpu_mode = "$([ $driver = kvm ] && echo host-passthrough || echo maximum)"
    machine.graphics_type = "none"
  end
end
END
  tar -C "$work" -czf "$state/crypto-stream.box" metadata.json Vagrantfile box.img
  as_root rm -rf "$work"
  vagrant box add --force --name "$box" "$state/crypto-stream.box"
}

daemons() {
  as_root pgrep -x virtlogd >/dev/null || as_root virtlogd -d
  as_root pgrep -x libvirtd >/dev/null || as_root libvirtd -d
}

# What a machine elsewhere has and this box has not, and what an emulated one takes.
settings() {
  mkdir -p "$VAGRANT_DOTFILE_PATH/provisioners/ansible/inventory/group_vars"
  cat >"$VAGRANT_DOTFILE_PATH/provisioners/ansible/inventory/group_vars/all.yml" <<END
artifact_mirror: $CACHE/mirror
java_apt_repository:
  uris: [mirror+file:/etc/apt/mirrors/debian.list]
  suites: [sid]
  components: [main]
  signed_by: /usr/share/keyrings/debian-archive-keyring.gpg
  check_valid_until: false
stream_job_stall_seconds: 3600
app_stale_after_seconds: 3600
END
}

# Rows that grow, read through the forwarded ports as clients on a laptop do.
clients() {
  python - "$KAFKA_PORT" "$CQL_PORT" "$DASHBOARD_PORT" <<'END'
import sys, time, urllib.request
from cassandra.cluster import Cluster
from cassandra.policies import WhiteListRoundRobinPolicy
from kafka import KafkaConsumer

kafka, cql, dashboard = map(int, sys.argv[1:])
deadline = time.monotonic() + 5400


def until(what, look):
    before = None
    while True:
        try:
            if found := look():
                print(f"{time.strftime('%X')} {what}: {found}", flush=True)
                return found
            seen = "nothing yet"
        except Exception as error:
            seen = str(error)[:200]
        if seen != before:
            print(f"{time.strftime('%X')} {what}: {seen}", flush=True)
            before = seen
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within 90 minutes; the last look brought {seen}")
        time.sleep(10)


def messages():
    consumer = KafkaConsumer("crypto.prices", bootstrap_servers=f"127.0.0.1:{kafka}", auto_offset_reset="earliest", consumer_timeout_ms=60000)
    try:
        return next(iter(consumer), None) and "a message"
    finally:
        consumer.close()


def rows():
    cluster = Cluster(["127.0.0.1"], port=cql, connect_timeout=60, load_balancing_policy=WhiteListRoundRobinPolicy(["127.0.0.1"]))
    try:
        return cluster.connect("crypto").execute("SELECT count(*) FROM prices", timeout=120).one()[0]
    finally:
        cluster.shutdown()


def page():
    return urllib.request.urlopen(f"http://127.0.0.1:{dashboard}/_stcore/health", timeout=60).read().decode()


until("Kafka", messages)
before = until("rows", rows)
until("more rows", lambda: (now := rows()) > before and now)
until("dashboard", page)
END
}

again() {
  vagrant --no-tty provision | tee "$state/again.log"
  grep -q 'changed=0 .*failed=0' "$state/again.log"
}

command -v dpkg-query >/dev/null && [ "$(. /etc/os-release && echo "$VERSION_CODENAME")" = $release ] ||
  skip "the box is made with the packages of Debian 12, which this machine is not."
[ -z "${ANEW:-}" ] || { vagrant destroy --force || true; rm -rf "$state"; }
mkdir -p "$state/done"
[ $driver = kvm ] || say "There is no hypervisor here: the machine is emulated, and a whole run takes an hour and a half."
provide_packages
tools dev
provide_mirror
step box make_box
daemons
settings
step up vagrant --no-tty up
step clients clients
step provision-again again
step halt vagrant --no-tty halt
step up-again vagrant --no-tty up
step clients-again clients
# How the job took its second start, for whoever wants to know what that time went to.
vagrant ssh --command "sudo journalctl --boot --unit=crypto-stream-job --no-pager" || true
step destroy vagrant --no-tty destroy --force

say "make test-vagrant, with $driver"
for name in box up clients provision-again halt up-again clients-again; do printf '%6d s  %s\n' "$(cat "$state/done/$name")" "$name"; done
rm -rf "$state/done"
