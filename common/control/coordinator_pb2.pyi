from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AdmitRequest(_message.Message):
    __slots__ = ("card", "patients")
    class PatientsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CARD_FIELD_NUMBER: _ClassVar[int]
    PATIENTS_FIELD_NUMBER: _ClassVar[int]
    card: str
    patients: _containers.ScalarMap[str, int]
    def __init__(self, card: _Optional[str] = ..., patients: _Optional[_Mapping[str, int]] = ...) -> None: ...

class AdmitReply(_message.Message):
    __slots__ = ("site", "fingerprint", "coordinator_card", "coordinator_fingerprint", "again", "agreed")
    SITE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_CARD_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    site: str
    fingerprint: str
    coordinator_card: str
    coordinator_fingerprint: str
    again: bool
    agreed: _containers.RepeatedCompositeFieldContainer[Agreement]
    def __init__(self, site: _Optional[str] = ..., fingerprint: _Optional[str] = ..., coordinator_card: _Optional[str] = ..., coordinator_fingerprint: _Optional[str] = ..., again: _Optional[bool] = ..., agreed: _Optional[_Iterable[_Union[Agreement, _Mapping]]] = ...) -> None: ...

class Agreement(_message.Message):
    __slots__ = ("dataset", "patients", "declared")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    PATIENTS_FIELD_NUMBER: _ClassVar[int]
    DECLARED_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    patients: int
    declared: int
    def __init__(self, dataset: _Optional[str] = ..., patients: _Optional[int] = ..., declared: _Optional[int] = ...) -> None: ...

class AgreeRequest(_message.Message):
    __slots__ = ("site", "dataset", "patients")
    SITE_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    PATIENTS_FIELD_NUMBER: _ClassVar[int]
    site: str
    dataset: str
    patients: int
    def __init__(self, site: _Optional[str] = ..., dataset: _Optional[str] = ..., patients: _Optional[int] = ...) -> None: ...

class AgreeReply(_message.Message):
    __slots__ = ("before",)
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    before: int
    def __init__(self, before: _Optional[int] = ...) -> None: ...

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
    __slots__ = ("name", "state", "online", "seen", "fingerprint", "admitted", "agreed", "twins")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ONLINE_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ADMITTED_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    TWINS_FIELD_NUMBER: _ClassVar[int]
    name: str
    state: str
    online: bool
    seen: str
    fingerprint: str
    admitted: str
    agreed: _containers.RepeatedCompositeFieldContainer[Agreement]
    twins: str
    def __init__(self, name: _Optional[str] = ..., state: _Optional[str] = ..., online: _Optional[bool] = ..., seen: _Optional[str] = ..., fingerprint: _Optional[str] = ..., admitted: _Optional[str] = ..., agreed: _Optional[_Iterable[_Union[Agreement, _Mapping]]] = ..., twins: _Optional[str] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("document", "sites", "seed", "initial")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    INITIAL_FIELD_NUMBER: _ClassVar[int]
    document: str
    sites: _containers.RepeatedScalarFieldContainer[str]
    seed: int
    initial: bytes
    def __init__(self, document: _Optional[str] = ..., sites: _Optional[_Iterable[str]] = ..., seed: _Optional[int] = ..., initial: _Optional[bytes] = ...) -> None: ...

class StartReply(_message.Message):
    __slots__ = ("study", "sites", "offline", "round_timeout", "approval_timeout", "seed", "shares", "dataset")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    SITES_FIELD_NUMBER: _ClassVar[int]
    OFFLINE_FIELD_NUMBER: _ClassVar[int]
    ROUND_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    APPROVAL_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    DATASET_FIELD_NUMBER: _ClassVar[int]
    study: str
    sites: _containers.RepeatedScalarFieldContainer[str]
    offline: _containers.RepeatedScalarFieldContainer[str]
    round_timeout: str
    approval_timeout: str
    seed: int
    shares: _containers.RepeatedCompositeFieldContainer[Share]
    dataset: str
    def __init__(self, study: _Optional[str] = ..., sites: _Optional[_Iterable[str]] = ..., offline: _Optional[_Iterable[str]] = ..., round_timeout: _Optional[str] = ..., approval_timeout: _Optional[str] = ..., seed: _Optional[int] = ..., shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ..., dataset: _Optional[str] = ...) -> None: ...

class Share(_message.Message):
    __slots__ = ("site", "patients", "weight", "share")
    SITE_FIELD_NUMBER: _ClassVar[int]
    PATIENTS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    site: str
    patients: int
    weight: int
    share: float
    def __init__(self, site: _Optional[str] = ..., patients: _Optional[int] = ..., weight: _Optional[int] = ..., share: _Optional[float] = ...) -> None: ...

class LeftOut(_message.Message):
    __slots__ = ("site", "of", "reason", "remedy")
    SITE_FIELD_NUMBER: _ClassVar[int]
    OF_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    site: str
    of: str
    reason: str
    remedy: str
    def __init__(self, site: _Optional[str] = ..., of: _Optional[str] = ..., reason: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class StudiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StudiesReply(_message.Message):
    __slots__ = ("studies",)
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[StudyRow]
    def __init__(self, studies: _Optional[_Iterable[_Union[StudyRow, _Mapping]]] = ...) -> None: ...

class StudyRow(_message.Message):
    __slots__ = ("name", "title", "state", "round", "rounds", "sites", "why", "started", "undecided", "warnings", "shares", "left_out")
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
    SHARES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
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
    shares: _containers.RepeatedCompositeFieldContainer[Share]
    left_out: _containers.RepeatedCompositeFieldContainer[LeftOut]
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., state: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., sites: _Optional[_Iterable[str]] = ..., why: _Optional[str] = ..., started: _Optional[str] = ..., undecided: _Optional[_Iterable[str]] = ..., warnings: _Optional[_Iterable[str]] = ..., shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ..., left_out: _Optional[_Iterable[_Union[LeftOut, _Mapping]]] = ...) -> None: ...

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
