"""Copies a mirror, with archives whose scripts and settings would do harm if anything used them.

An archive keeps its name, layout and jars. What is in its bin/, sbin/, conf/ and config/ is replaced: every script
leaves a trace and exits 66, and every settings file says something that tests would notice. Each is made once for the
archive it is made from; everything else of the mirror is linked.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

TRACE = "hostile-trace"
REPLACED = ("bin", "sbin", "conf", "config")

SCRIPT = f"""#!/bin/sh
for directory in /var/tmp /tmp /var/lib/* /run "$PWD" "$HOME"; do
    echo "$0 $*" >> "$directory/{TRACE}"
done 2> /dev/null
exit 66
"""
LOG4J = f"""log4j.rootLogger=TRACE, hostile
log4j.appender.hostile=org.apache.log4j.FileAppender
log4j.appender.hostile.File=/tmp/{TRACE}
log4j.appender.hostile.layout=org.apache.log4j.SimpleLayout
"""
LOG4J2 = f"""rootLogger.level = trace
rootLogger.appenderRef.hostile.ref = hostile
appender.hostile.type = File
appender.hostile.name = hostile
appender.hostile.fileName = /tmp/{TRACE}
appender.hostile.layout.type = PatternLayout
"""
LOGBACK = f"""<configuration>
  <appender name="HOSTILE" class="ch.qos.logback.core.FileAppender">
    <file>/tmp/{TRACE}</file>
    <encoder><pattern>%msg%n</pattern></encoder>
  </appender>
  <root level="TRACE"><appender-ref ref="HOSTILE"/></root>
</configuration>
"""
KAFKA = """process.roles=broker,controller
node.id=666
controller.quorum.voters=666@127.0.0.1:6693
listeners=PLAINTEXT://0.0.0.0:6692,CONTROLLER://127.0.0.1:6693
advertised.listeners=PLAINTEXT://hostile.invalid:6692
controller.listener.names=CONTROLLER
log.dirs=/tmp/hostile-kafka
message.max.bytes=666
auto.create.topics.enable=true
"""
CASSANDRA = """cluster_name: hostile
num_tokens: 1
partitioner: org.apache.cassandra.dht.RandomPartitioner
endpoint_snitch: SimpleSnitch
listen_address: localhost
native_transport_port: 6642
data_file_directories: [/tmp/hostile-cassandra]
commitlog_directory: /tmp/hostile-cassandra
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{seeds: hostile.invalid}]
"""
SPARK_DEFAULTS = """spark.master spark://hostile.invalid:6677
spark.app.name hostile
spark.hostile true
spark.ui.port 6640
spark.driver.extraJavaOptions -Dhostile=true
spark.executor.extraJavaOptions -Dhostile=true
spark.sql.shuffle.partitions 666
"""
JVM_OPTIONS = "-Dhostile=true\n-Xmx66m\n"
SHELL = f"touch /tmp/{TRACE}\nexport SPARK_MASTER_PORT=6677 SPARK_HOSTILE=true JVM_OPTS=-Dhostile=true\nexit 66\n"

# Scripts and settings where the genuine archives have them.
CONTENTS: dict[str, list[tuple[str, str, tuple[str, ...]]]] = {
    "kafka": [
        (
            "bin",
            SCRIPT,
            (
                "kafka-broker-api-versions.sh",
                "kafka-configs.sh",
                "kafka-console-consumer.sh",
                "kafka-console-producer.sh",
                "kafka-consumer-groups.sh",
                "kafka-get-offsets.sh",
                "kafka-log-dirs.sh",
                "kafka-run-class.sh",
                "kafka-server-start.sh",
                "kafka-server-stop.sh",
                "kafka-storage.sh",
                "kafka-topics.sh",
                "zookeeper-server-start.sh",
            ),
        ),
        ("config", KAFKA, ("server.properties", "kraft/server.properties", "kraft/broker.properties")),
        ("config", LOG4J, ("log4j.properties", "tools-log4j.properties")),
    ],
    "apache-cassandra": [
        ("bin", SCRIPT, ("cassandra", "cassandra.in.sh", "cqlsh", "cqlsh.py", "nodetool", "sstableloader")),
        ("conf", CASSANDRA, ("cassandra.yaml",)),
        ("conf", SHELL, ("cassandra-env.sh",)),
        ("conf", "dc=hostile\nrack=hostile\n", ("cassandra-rackdc.properties",)),
        ("conf", JVM_OPTIONS, ("jvm-server.options", "jvm8-server.options", "jvm-clients.options")),
        ("conf", LOGBACK, ("logback.xml", "logback-tools.xml")),
    ],
    "spark": [
        (
            "bin",
            SCRIPT,
            ("find-spark-home", "load-spark-env.sh", "pyspark", "spark-class", "spark-shell", "spark-submit"),
        ),
        ("sbin", SCRIPT, ("spark-config.sh", "spark-daemon.sh", "start-all.sh", "start-master.sh", "start-worker.sh")),
        ("conf", SPARK_DEFAULTS, ("spark-defaults.conf",)),
        ("conf", SHELL, ("spark-env.sh",)),
        ("conf", "-Dhostile=true\n", ("java-opts",)),
        ("conf", LOG4J2, ("log4j2.properties", "log4j.properties")),
    ],
}


def hostile(genuine: Path, target: Path) -> None:
    """Write the hostile archive and its checksum."""
    contents = next(content for piece, content in CONTENTS.items() if genuine.name.startswith(piece))
    # Nearly all of it is jars, so nothing is gained by compressing.
    with tarfile.open(genuine, "r|gz") as source, tarfile.open(target, "w:gz", compresslevel=0) as copy:
        top = ""
        for member in source:
            top, _, rest = member.name.removeprefix("./").partition("/")
            if rest.split("/")[0] not in REPLACED:
                copy.addfile(member, source.extractfile(member) if member.isreg() else None)
        for directory, content, names in contents:
            for name in names:
                info = tarfile.TarInfo(f"{top}/{directory}/{name}")
                info.mode = 0o755 if content is SCRIPT else 0o644
                info.size = len(content)
                copy.addfile(info, io.BytesIO(content.encode()))
    with target.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha512").hexdigest()
    target.with_name(target.name + ".sha512").write_text(f"{digest}  {target.name}\n")


def main() -> None:
    mirror, copy = map(Path, sys.argv[1:])
    copy.mkdir(exist_ok=True)
    for directory in ("jars", "python"):
        if not (copy / directory).is_symlink():
            (copy / directory).symlink_to(mirror / directory)
    for checksum in sorted(mirror.glob("*.sha512")):
        genuine = checksum.with_suffix("")
        origin = copy / f"{genuine.name}.origin"
        key = hashlib.sha256(Path(__file__).read_bytes() + checksum.read_bytes()).hexdigest()
        if not origin.exists() or origin.read_text() != key:
            origin.unlink(missing_ok=True)
            hostile(genuine, copy / genuine.name)
            origin.write_text(key)
            print(f"made {copy / genuine.name}")


if __name__ == "__main__":
    main()
