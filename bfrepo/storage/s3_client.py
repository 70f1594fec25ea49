"""botocore, set up so that it talks to AWS and to whatever else speaks S3.

Keys come from where AWS's own tools have them: the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN), `~/.aws/credentials` and `config` with their profiles, single sign-on, or the role of the machine;
none of them counts where the options name a key.

What is set otherwise than botocore's default, and why:
    retries        none: bfrepo/storage/retry.py does them, for every kind of storage alike
    checksums      only where a request needs one (`when_required`): since 1.36 botocore adds CRC32 trailers to
                   uploads, which many servers other than AWS refuse. Nothing is less safe for it: each body comes
                   with its MD5 (s3_transfer.py), and what we read is authenticated in the layers above
    Content-MD5    instead of CRC32 also where botocore wants a checksum (DeleteObjects, PutObjectRetention)
    Expect         left out: asking whether a pack may be sent costs a round trip each, and the answer is yes
    addressing     `https://bucket.host/` for AWS, `https://host/bucket/` for others, or as `s3.path-style` says
    region         the option, else that in the name of the host, else AWS's own settings, else us-east-1
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Any, Final
from urllib.parse import urlsplit

from bfrepo.core.errors import InvalidValue, StorageDenied, UsageError
from bfrepo.storage.options import S3Options
from bfrepo.storage.places import S3Location

_CONNECT_TIMEOUT_S: Final = 15
_READ_TIMEOUT_S: Final = 60
"""How long a server may be silent. Large uploads are no silence; joining the parts of one is."""

_DEFAULT_REGION: Final = "us-east-1"
"""What servers that know no regions expect in signatures."""

_AWS_HOST: Final = re.compile(r"s3(?:[.-](?:dualstack\.)?(?P<region>[a-z0-9-]+))?\.amazonaws\.com(?:\.cn)?")
_OTHER_HOST: Final = re.compile(r"s3\.(?P<region>[a-z0-9-]+)\.[a-z0-9-]+\.[a-z]+")
"""s3.us-west-004.backblazeb2.com, s3.eu-central-1.wasabisys.com, s3.fr-par.scw.cloud"""

_NEEDS_CHECKSUM: Final = ("DeleteObjects", "PutObjectRetention")
_CHECKSUMS: Final = ("x-amz-checksum-", "x-amz-sdk-checksum-")


def make_client(location: S3Location, options: S3Options) -> Any:
    """A client, which any number of threads may use. Nothing is sent yet.

    Raises UsageError where botocore is not installed, InvalidValue for a profile, an endpoint or a bucket that cannot
    be, StorageDenied for settings of AWS's own that do not parse.
    """
    try:
        import botocore.session  # noqa: PLC0415 - slow to load, and not everybody has it
        from botocore import exceptions as failures  # noqa: PLC0415
        from botocore.config import Config  # noqa: PLC0415
    except ImportError as error:
        raise UsageError(
            f"cannot open {location.shown}: S3 needs the package botocore", hint="pip install 'backupforge[s3]'"
        ) from error
    config = Config(
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
        max_pool_connections=options.connections,
        tcp_keepalive=True,
        retries={"total_max_attempts": 1, "mode": "standard"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if _uses_paths(location, options) else "virtual"},
    )
    try:
        session = botocore.session.Session(profile=options.profile)
        if options.access_key is not None and options.secret_key is not None:
            session.set_credentials(options.access_key, options.secret_key)
        client = session.create_client(
            "s3",
            region_name=_region(location, options, session.get_config_variable("region")),
            endpoint_url=_endpoint(location),
            verify=options.ca_file,
            config=config,
        )
    except failures.ProfileNotFound as error:
        raise InvalidValue(f"there is no profile {options.profile!r}", hint="look into ~/.aws/config") from error
    except failures.BotoCoreError as error:
        raise StorageDenied(f"{location.shown}: {error}", hint="look into ~/.aws/config") from error
    except ValueError as error:
        raise InvalidValue(f"{location.shown} is no S3 location: {error}") from error
    _set_up(client)
    return client


def _set_up(client: Any) -> None:
    events = client.meta.events
    events.register_last("before-call.s3", _leave_out_expect)
    for operation in _NEEDS_CHECKSUM:
        events.register(f"before-sign.s3.{operation}", _use_md5)


def _leave_out_expect(params: dict[str, Any], **_: object) -> None:
    params["headers"].pop("Expect", None)


def _use_md5(request: Any, **_: object) -> None:
    """Replace the checksum that botocore has chosen."""
    for name in [name for name in request.headers if name.lower().startswith(_CHECKSUMS)]:
        del request.headers[name]
    del request.headers["Content-MD5"]  # that of an earlier try; no error if there is none
    request.headers["Content-MD5"] = content_md5(request.body)


def content_md5(*pieces: bytes | bytearray) -> str:
    """The header for a body."""
    digest = hashlib.md5(usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return base64.b64encode(digest.digest()).decode()


def _host(location: S3Location) -> str:
    return urlsplit(location.endpoint).hostname or ""


def _uses_paths(location: S3Location, options: S3Options) -> bool:
    if options.path_style is not None:
        return options.path_style
    return _AWS_HOST.fullmatch(_host(location)) is None


def _region(location: S3Location, options: S3Options, configured: str | None) -> str:
    match = _AWS_HOST.fullmatch(_host(location)) or _OTHER_HOST.fullmatch(_host(location))
    return options.region or (match and match["region"]) or configured or _DEFAULT_REGION


def _endpoint(location: S3Location) -> str | None:
    """The server's URL; None for AWS where no region is named, because AWS itself then knows where the bucket is."""
    match = _AWS_HOST.fullmatch(_host(location))
    return None if match is not None and match["region"] is None else location.endpoint
