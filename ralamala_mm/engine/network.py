"""Which address and network interface of this machine lead to another one."""

import fcntl
import ipaddress
import socket
import struct

from ralamala_mm.errors import UserError

_GET_ADDRESS = 0x8915  # SIOCGIFADDR of Linux
_ANY_PORT = 9  # nothing is sent: connecting a datagram socket only looks the route up


def local_address(host: str) -> str:
    """The IP address that this machine has on its way to `host`.

    Raises:
        UserError: the host's name is not known here, or no network leads to it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
    except socket.gaierror as error:
        raise UserError(f'MASTER_ADDR={host} is not known on this node ({error.strerror}): give the name or the IP '
                        'address of the node with NODE_RANK 0') from error
    with socket.socket(family, kind, protocol) as probe:
        try:
            probe.connect(address)
        except OSError as error:
            raise UserError(f'MASTER_ADDR={host} ({address[0]}) cannot be reached from this node: {error.strerror}') from error
        return probe.getsockname()[0]


def interface_of(address: str) -> str | None:
    """The name of the interface with an IPv4 address, such as eth0; None when it has none here, and for IPv6."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                request = fcntl.ioctl(probe, _GET_ADDRESS, struct.pack('256s', name.encode()[:15]))
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(request[20:24]) == address:
                return name
    # All of 127.0.0.0/8 is the loopback interface, which is listed with its first address only.
    return 'lo' if ipaddress.ip_address(address).is_loopback else None
