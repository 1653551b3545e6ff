"""A place in a DDS network: one domain on one network interface, with topics of which only the newest sample counts."""

from __future__ import annotations

from typing import Any

from cyclonedds.core import DDSException
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.internal import InvalidSample
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic

LOOPBACK = "lo"
MAX_DOMAIN = 100  # above, the ports of DDS reach into those that Linux gives to others

# Multicast does not exist on every loopback interface, so processes find each other by their ports there.
_ON_LOOPBACK = """<CycloneDDS><Domain Id="any">
<General><Interfaces><NetworkInterface name="lo" multicast="false"/></Interfaces><AllowMulticast>false</AllowMulticast>
</General><Discovery><ParticipantIndex>auto</ParticipantIndex><Peers><Peer address="localhost"/></Peers></Discovery>
</Domain></CycloneDDS>"""
_ON_INTERFACE = """<CycloneDDS><Domain Id="any">
<General><Interfaces><NetworkInterface name="{name}" priority="default" multicast="default"/></Interfaces></General>
</Domain></CycloneDDS>"""


class Network:
    """Membership of a domain; ends with `close`."""

    def __init__(self, interface: str = LOOPBACK, domain: int = 0) -> None:
        """Joins a domain.

        Args:
            interface: name of the network interface, "lo" for processes of this machine only.
            domain: number of the domain, 0 to 100; Unitree's robots are in 0.

        Raises:
            ValueError: no such domain, or `interface` is not a plain name.
            OSError: there is no such interface, it has no address, or this process is in the domain already.
        """
        if not 0 <= domain <= MAX_DOMAIN:
            raise ValueError(f"DDS domain {domain}: it must be 0 to {MAX_DOMAIN}.")
        if not interface.replace("-", "").replace("_", "").replace(".", "").isalnum():
            raise ValueError(f"Network interface {interface!r}: that is no interface's name.")
        config = _ON_LOOPBACK if interface == LOOPBACK else _ON_INTERFACE.format(name=interface)
        self.interface, self.domain = interface, domain
        try:
            self._domain: Any = Domain(domain, config)
            self._participant: Any = DomainParticipant(domain)
        except DDSException as error:
            raise OSError(
                f"DDS domain {domain} cannot be joined on network interface {interface!r}: is there such an interface, "
                "is it up, and has it an address?"
            ) from error

    def writer(self, topic: str, message: Any) -> DataWriter:
        """A publisher with DDS's default quality of service, which is what the maker's own programs use."""
        return DataWriter(self._participant, Topic(self._participant, topic, message))

    def reader(self, topic: str, message: Any) -> Reader:
        """A subscriber that keeps the newest sample only and never asks for a lost one again."""
        newest = Qos(Policy.Reliability.BestEffort, Policy.History.KeepLast(1))
        return Reader(DataReader(self._participant, Topic(self._participant, topic, message), newest))

    def close(self) -> None:
        """Leaves the domain; its readers and writers are of no use any more. May be called twice."""
        self._participant = None
        self._domain = None


class Reader:
    """The newest sample of a topic."""

    def __init__(self, reader: DataReader) -> None:
        self._reader = reader
        self.malformed = 0  # packets that were not what their type says

    def take(self) -> Any | None:
        """The newest sample since the last call, None if none has come. Does not wait."""
        try:
            samples = self._reader.take(1)
        except ValueError:
            self.malformed += 1
            return None
        return None if not samples or isinstance(samples[0], InvalidSample) else samples[0]
