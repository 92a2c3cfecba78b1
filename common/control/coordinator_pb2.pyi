from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AdmitRequest(_message.Message):
    __slots__ = ("card",)
    CARD_FIELD_NUMBER: _ClassVar[int]
    card: str
    def __init__(self, card: _Optional[str] = ...) -> None: ...

class AdmitReply(_message.Message):
    __slots__ = ("site", "fingerprint", "coordinator_card", "coordinator_fingerprint", "again")
    SITE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_CARD_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    site: str
    fingerprint: str
    coordinator_card: str
    coordinator_fingerprint: str
    again: bool
    def __init__(self, site: _Optional[str] = ..., fingerprint: _Optional[str] = ..., coordinator_card: _Optional[str] = ..., coordinator_fingerprint: _Optional[str] = ..., again: _Optional[bool] = ...) -> None: ...

class RemoveRequest(_message.Message):
    __slots__ = ("site",)
    SITE_FIELD_NUMBER: _ClassVar[int]
    site: str
    def __init__(self, site: _Optional[str] = ...) -> None: ...

class RemoveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SitesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SitesReply(_message.Message):
    __slots__ = ("sites",)
    SITES_FIELD_NUMBER: _ClassVar[int]
    sites: _containers.RepeatedCompositeFieldContainer[SiteRow]
    def __init__(self, sites: _Optional[_Iterable[_Union[SiteRow, _Mapping]]] = ...) -> None: ...

class SiteRow(_message.Message):
    __slots__ = ("name", "state", "online", "seen", "fingerprint", "admitted")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    online: bool
    seen: str
    fingerprint: str
    admitted: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., online: _Optional[bool] = ..., seen: _Optional[str] = ..., fingerprint: _Optional[str] = ..., admitted: _Optional[str] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("document", "sites", "seed")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    document: str
    sites: _containers.RepeatedScalarFieldContainer[str]
    seed: int
    def __init__(self, document: _Optional[str] = ..., sites: _Optional[_Iterable[str]] = ..., seed: _Optional[int] = ...) -> None: ...

class StartReply(_message.Message):
    __slots__ = ("study", "sites", "offline", "round_timeout", "approval_timeout", "seed")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    OFFLINE_FIELD_NUMBER: _ClassVar[int]
    ROUND_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    study: str
    sites: _containers.RepeatedScalarFieldContainer[str]
    offline: _containers.RepeatedScalarFieldContainer[str]
    round_timeout: str
    approval_timeout: str
    seed: int
    def __init__(self, study: _Optional[str] = ..., sites: _Optional[_Iterable[str]] = ..., offline: _Optional[_Iterable[str]] = ..., round_timeout: _Optional[str] = ..., approval_timeout: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class StudiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StudiesReply(_message.Message):
    __slots__ = ("studies",)
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[StudyRow]
    def __init__(self, studies: _Optional[_Iterable[_Union[StudyRow, _Mapping]]] = ...) -> None: ...

class StudyRow(_message.Message):
    __slots__ = ("name", "title", "state", "round", "rounds", "sites", "why", "started", "undecided", "warnings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    UNDECIDED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    state: str
    round: int
    rounds: int
    sites: _containers.RepeatedScalarFieldContainer[str]
    why: str
    started: str
    undecided: _containers.RepeatedScalarFieldContainer[str]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., state: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., sites: _Optional[_Iterable[str]] = ..., why: _Optional[str] = ..., started: _Optional[str] = ..., undecided: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("study", "after", "follow")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    study: str
    after: int
    follow: bool
    def __init__(self, study: _Optional[str] = ..., after: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("id", "at", "kind", "round", "site", "fields")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    SITE_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    id: int
    at: str
    kind: str
    round: int
    site: str
    fields: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[int] = ..., at: _Optional[str] = ..., kind: _Optional[str] = ..., round: _Optional[int] = ..., site: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ...) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: str
    def __init__(self, study: _Optional[str] = ...) -> None: ...

class StopReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("study", "amend")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    AMEND_FIELD_NUMBER: _ClassVar[int]
    study: str
    amend: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, study: _Optional[str] = ..., amend: _Optional[_Iterable[str]] = ...) -> None: ...

class ResumeReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResultRequest(_message.Message):
    __slots__ = ("study",)
    STUDY_FIELD_NUMBER: _ClassVar[int]
    study: str
    def __init__(self, study: _Optional[str] = ...) -> None: ...

class ResultPiece(_message.Message):
    __slots__ = ("path", "content")
    PATH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    path: str
    content: bytes
    def __init__(self, path: _Optional[str] = ..., content: _Optional[bytes] = ...) -> None: ...
