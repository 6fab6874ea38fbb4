"""Where a byte is, as one number: every device has addresses of its own, and numbers sort faster than pairs. Pure."""

_ADDRESS_BITS = 64


def place(index, address):
    """The place of this address on the device of that index."""
    return (index << _ADDRESS_BITS) + address


def index_of(place):
    """The index of the device that the place is on."""
    return place >> _ADDRESS_BITS


def address_of(place):
    """The address of the place on its device."""
    return place & ((1 << _ADDRESS_BITS) - 1)
