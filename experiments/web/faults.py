"""What a visitor is told when a request cannot be answered: where it went wrong, in a sentence."""


class RequestFault(Exception):
    """A request that cannot be answered; `field` is what is wrong of the form, "" for none of it."""

    def __init__(self, field: str, message: str, status: int = 422) -> None:
        super().__init__(message)
        self.field = field
        self.message = message
        self.status = status
