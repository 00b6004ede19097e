"""The argument ``s3client``: converts its supported kinds to storage settings. Owns the keys copied from a client, which
are never shown and never leave the process; opens no connection.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from ..errors import ConfigError

log = logging.getLogger("feedline")

_MAY_BE = (
    "Give a URL below which the data set lies (s3://bucket/nyu), a mapping with keys of [storage] (endpoint, region, "
    "anonymous, map, ...; and url), a client of boto3, or None for the disk"
)


class Keys:
    """An access key, its secret and perhaps a token. ``repr`` hides them, and they cannot be pickled."""

    def __init__(self, access_key: str, secret_key: str, token: str | None) -> None:
        self._keys = (access_key, secret_key, token)

    def reveal(self) -> tuple[str, str, str | None]:
        """The keys in plain text, only for the native half."""
        return self._keys

    def __repr__(self) -> str:
        return "Keys(...)"

    def __reduce__(self) -> Any:
        raise ConfigError(
            "this source has the keys of an S3 client, which are never written anywhere, so it cannot be pickled. Set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead, and give s3client a URL or a mapping"
        )

    def __deepcopy__(self, memo: Any) -> Keys:
        return self


def is_url(path: str) -> bool:
    """True if it is the URL of a source and not a file of this machine."""
    return re.match(r"[a-z0-9]+://", path) is not None


def storage_of(
    s3client: Any, dataset_path: str, roots: Mapping[str, str], setting: str = "dataset_path"
) -> tuple[dict[str, Any], Keys | None]:
    """Converts ``s3client`` to settings of ``[storage]`` and keys to sign with. The ``roots`` of the data set (by the names
    of their settings) lie below ``dataset_path``, which is the setting ``setting``, or elsewhere.

    Raises :class:`feedline.ConfigError` if ``s3client`` is of no supported kind, or if all roots would stay on the disk.
    """
    if s3client is None:
        return {}, None
    keys: Keys | None = None
    if isinstance(s3client, str):
        if not is_url(s3client):
            raise ConfigError(f"s3client is {s3client!r}, which is no URL. {_MAY_BE}")
        storage: dict[str, Any] = {"url": s3client}
    elif isinstance(s3client, Mapping):
        storage = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in s3client.items()}
        for name in storage:
            if re.search("secret|token|access_key|password|credential", str(name), re.IGNORECASE):
                raise ConfigError(
                    f"s3client has the key {name}, but credentials are no settings. Set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY, or give a client of boto3"
                )
    elif hasattr(getattr(s3client, "meta", None), "endpoint_url"):
        storage, keys = _of_client(s3client)
    else:
        raise ConfigError(f"s3client is {type(s3client).__name__}. {_MAY_BE}")
    url = storage.pop("url", None)
    if url is not None:
        storage["map"] = _map(url, dataset_path, storage.get("map"), setting)
    mapped = str(storage.get("map") or "").partition("=")[0]
    if not any(is_url(root) or mapped and PurePosixPath(root).is_relative_to(mapped) for root in roots.values()):
        name, root = next(iter(roots.items()))
        what = f"below {mapped}, which is mapped," if mapped else "a URL,"
        raise ConfigError(
            f"s3client is given, but no path of the data set is {what} so all would be read from the disk; {name} is "
            f"{root!r}. Set {setting} to s3://bucket/folder, or give s3client that URL"
        )
    return storage, keys


def _map(url: Any, dataset_path: str, also: Any, setting: str) -> str:
    if not isinstance(url, str) or not is_url(url):
        raise ConfigError(f"s3client's url is {url!r}. {_MAY_BE}")
    if also:
        raise ConfigError(f"s3client has the url {url} and the map {also}. The url maps {setting}: leave one out")
    if is_url(dataset_path):
        raise ConfigError(
            f"{setting} is {dataset_path}, and s3client says that the data set lies at {url}. Leave one of them out"
        )
    if not dataset_path or "=" in dataset_path:
        raise ConfigError(
            f"{setting} is {dataset_path!r}, which cannot be mapped to a URL. Name a folder without =, or set it to {url}"
        )
    return f"{dataset_path}={url}"


def _of_client(client: Any) -> tuple[dict[str, Any], Keys | None]:
    """Endpoint, region and keys of boto3's client, as they are now."""
    storage: dict[str, Any] = {"endpoint": str(client.meta.endpoint_url)}
    region = getattr(client.meta, "region_name", None)
    if region:
        # boto3's name for the region of a client that was made without one.
        storage["region"] = "us-east-1" if region == "aws-global" else str(region)
    botocore = sys.modules.get("botocore")
    version = getattr(getattr(client.meta, "config", None), "signature_version", None)
    if botocore is not None and version is botocore.UNSIGNED:
        return storage | {"anonymous": True}, None
    credentials = getattr(getattr(client, "_request_signer", None), "_credentials", None)
    if credentials is None:
        raise ConfigError(
            "the S3 client has no credentials. Configure them where boto3 finds them, or read what is public with "
            "Config(signature_version=botocore.UNSIGNED)"
        )
    if hasattr(credentials, "refresh_needed"):
        log.warning(
            "the keys of the S3 client expire, and are taken over as they are now. For a longer run give s3client a URL or "
            "a mapping: keys that the environment or the machine gives are renewed"
        )
    now = credentials.get_frozen_credentials()
    return storage, Keys(now.access_key, now.secret_key, now.token or None)
