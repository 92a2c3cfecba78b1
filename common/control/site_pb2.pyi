from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Notice(_message.Message):
    __slots__ = ("what", "remedy")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    what: str
    remedy: str
    def __init__(self, what: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("site", "version", "pid", "started", "warnings", "connection", "worker", "studies", "paused", "audit", "known_key", "refused_proposals")
    SITE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    AUDIT_FIELD_NUMBER: _ClassVar[int]
    KNOWN_KEY_FIELD_NUMBER: _ClassVar[int]
    REFUSED_PROPOSALS_FIELD_NUMBER: _ClassVar[int]
    site: str
    version: str
    pid: int
    started: str
    warnings: _containers.RepeatedCompositeFieldContainer[Notice]
    connection: Connection
    worker: Worker
    studies: _containers.RepeatedCompositeFieldContainer[StudyRow]
    paused: Paused
    audit: str
    known_key: bool
    refused_proposals: _containers.RepeatedCompositeFieldContainer[RefusedProposal]
    def __init__(self, site: _Optional[str] = ..., version: _Optional[str] = ..., pid: _Optional[int] = ..., started: _Optional[str] = ..., warnings: _Optional[_Iterable[_Union[Notice, _Mapping]]] = ..., connection: _Optional[_Union[Connection, _Mapping]] = ..., worker: _Optional[_Union[Worker, _Mapping]] = ..., studies: _Optional[_Iterable[_Union[StudyRow, _Mapping]]] = ..., paused: _Optional[_Union[Paused, _Mapping]] = ..., audit: _Optional[str] = ..., known_key: _Optional[bool] = ..., refused_proposals: _Optional[_Iterable[_Union[RefusedProposal, _Mapping]]] = ...) -> None: ...

class Connection(_message.Message):
    __slots__ = ("state", "coordinator", "address", "since", "why", "remedy", "last_message", "pid")
    STATE_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    LAST_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    state: str
    coordinator: str
    address: str
    since: str
    why: str
    remedy: str
    last_message: str
    pid: int
    def __init__(self, state: _Optional[str] = ..., coordinator: _Optional[str] = ..., address: _Optional[str] = ..., since: _Optional[str] = ..., why: _Optional[str] = ..., remedy: _Optional[str] = ..., last_message: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class Worker(_message.Message):
    __slots__ = ("state", "study", "round", "purpose", "since", "pid", "restarts", "why", "remedy")
    STATE_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    REMEDY_FIELD_NUMBER: _ClassVar[int]
    state: str
    study: str
    round: int
    purpose: str
    since: str
    pid: int
    restarts: int
    why: str
    remedy: str
    def __init__(self, state: _Optional[str] = ..., study: _Optional[str] = ..., round: _Optional[int] = ..., purpose: _Optional[str] = ..., since: _Optional[str] = ..., pid: _Optional[int] = ..., restarts: _Optional[int] = ..., why: _Optional[str] = ..., remedy: _Optional[str] = ...) -> None: ...

class Paused(_message.Message):
    __slots__ = ("by_person", "by_hours", "hours")
    BY_PERSON_FIELD_NUMBER: _ClassVar[int]
    BY_HOURS_FIELD_NUMBER: _ClassVar[int]
    HOURS_FIELD_NUMBER: _ClassVar[int]
    by_person: bool
    by_hours: bool
    hours: str
    def __init__(self, by_person: _Optional[bool] = ..., by_hours: _Optional[bool] = ..., hours: _Optional[str] = ...) -> None: ...

class StudyRow(_message.Message):
    __slots__ = ("name", "title", "plan_hash", "state", "round", "rounds", "epsilon_spent", "epsilon", "decided", "expires", "proposed", "by", "warnings")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_SPENT_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    PROPOSED_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    name: str
    title: str
    plan_hash: str
    state: str
    round: int
    rounds: int
    epsilon_spent: float
    epsilon: float
    decided: str
    expires: str
    proposed: str
    by: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, name: _Optional[str] = ..., title: _Optional[str] = ..., plan_hash: _Optional[str] = ..., state: _Optional[str] = ..., round: _Optional[int] = ..., rounds: _Optional[int] = ..., epsilon_spent: _Optional[float] = ..., epsilon: _Optional[float] = ..., decided: _Optional[str] = ..., expires: _Optional[str] = ..., proposed: _Optional[str] = ..., by: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class RefusedProposal(_message.Message):
    __slots__ = ("study", "plan_hash", "why")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    study: str
    plan_hash: str
    why: str
    def __init__(self, study: _Optional[str] = ..., plan_hash: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class StudiesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StudiesReply(_message.Message):
    __slots__ = ("studies", "refused_proposals")
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    REFUSED_PROPOSALS_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[StudyRow]
    refused_proposals: _containers.RepeatedCompositeFieldContainer[RefusedProposal]
    def __init__(self, studies: _Optional[_Iterable[_Union[StudyRow, _Mapping]]] = ..., refused_proposals: _Optional[_Iterable[_Union[RefusedProposal, _Mapping]]] = ...) -> None: ...

class ShowRequest(_message.Message):
    __slots__ = ("study", "plan_hash", "by")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    study: str
    plan_hash: str
    by: str
    def __init__(self, study: _Optional[str] = ..., plan_hash: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class ShowReply(_message.Message):
    __slots__ = ("plan_hash", "state", "text", "epsilon", "document", "study", "warnings", "decided", "by")
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    STUDY_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    plan_hash: str
    state: str
    text: str
    epsilon: float
    document: str
    study: str
    warnings: _containers.RepeatedScalarFieldContainer[str]
    decided: str
    by: str
    def __init__(self, plan_hash: _Optional[str] = ..., state: _Optional[str] = ..., text: _Optional[str] = ..., epsilon: _Optional[float] = ..., document: _Optional[str] = ..., study: _Optional[str] = ..., warnings: _Optional[_Iterable[str]] = ..., decided: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class ApproveRequest(_message.Message):
    __slots__ = ("study", "plan_hash", "days", "by")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    DAYS_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    study: str
    plan_hash: str
    days: int
    by: str
    def __init__(self, study: _Optional[str] = ..., plan_hash: _Optional[str] = ..., days: _Optional[int] = ..., by: _Optional[str] = ...) -> None: ...

class ApproveReply(_message.Message):
    __slots__ = ("study", "plan_hash", "expires", "epsilon", "patients", "left_out")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    PATIENTS_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    study: str
    plan_hash: str
    expires: str
    epsilon: float
    patients: int
    left_out: int
    def __init__(self, study: _Optional[str] = ..., plan_hash: _Optional[str] = ..., expires: _Optional[str] = ..., epsilon: _Optional[float] = ..., patients: _Optional[int] = ..., left_out: _Optional[int] = ...) -> None: ...

class DenyRequest(_message.Message):
    __slots__ = ("study", "by")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    study: str
    by: str
    def __init__(self, study: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class PauseRequest(_message.Message):
    __slots__ = ("by",)
    BY_FIELD_NUMBER: _ClassVar[int]
    by: str
    def __init__(self, by: _Optional[str] = ...) -> None: ...

class PauseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ResumeRequest(_message.Message):
    __slots__ = ("by",)
    BY_FIELD_NUMBER: _ClassVar[int]
    by: str
    def __init__(self, by: _Optional[str] = ...) -> None: ...

class ResumeReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("study", "by")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    study: str
    by: str
    def __init__(self, study: _Optional[str] = ..., by: _Optional[str] = ...) -> None: ...

class StopReply(_message.Message):
    __slots__ = ("study", "plan_hash", "rounds", "replies", "bytes", "epsilon", "worker_killed", "connection_killed", "state")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    WORKER_KILLED_FIELD_NUMBER: _ClassVar[int]
    CONNECTION_KILLED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    study: str
    plan_hash: str
    rounds: int
    replies: int
    bytes: int
    epsilon: float
    worker_killed: bool
    connection_killed: bool
    state: str
    def __init__(self, study: _Optional[str] = ..., plan_hash: _Optional[str] = ..., rounds: _Optional[int] = ..., replies: _Optional[int] = ..., bytes: _Optional[int] = ..., epsilon: _Optional[float] = ..., worker_killed: _Optional[bool] = ..., connection_killed: _Optional[bool] = ..., state: _Optional[str] = ...) -> None: ...

class LedgerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LedgerReply(_message.Message):
    __slots__ = ("studies", "limit_per_study", "limit_total", "delta", "most_spent", "length", "head")
    STUDIES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_PER_STUDY_FIELD_NUMBER: _ClassVar[int]
    LIMIT_TOTAL_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    MOST_SPENT_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    studies: _containers.RepeatedCompositeFieldContainer[Spending]
    limit_per_study: float
    limit_total: float
    delta: float
    most_spent: float
    length: int
    head: str
    def __init__(self, studies: _Optional[_Iterable[_Union[Spending, _Mapping]]] = ..., limit_per_study: _Optional[float] = ..., limit_total: _Optional[float] = ..., delta: _Optional[float] = ..., most_spent: _Optional[float] = ..., length: _Optional[int] = ..., head: _Optional[str] = ...) -> None: ...

class Spending(_message.Message):
    __slots__ = ("study", "plan_hash", "state", "rounds", "evaluations", "epsilon_spent", "epsilon", "patients", "gone", "left_out")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_SPENT_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    PATIENTS_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    study: str
    plan_hash: str
    state: str
    rounds: int
    evaluations: int
    epsilon_spent: float
    epsilon: float
    patients: int
    gone: str
    left_out: int
    def __init__(self, study: _Optional[str] = ..., plan_hash: _Optional[str] = ..., state: _Optional[str] = ..., rounds: _Optional[int] = ..., evaluations: _Optional[int] = ..., epsilon_spent: _Optional[float] = ..., epsilon: _Optional[float] = ..., patients: _Optional[int] = ..., gone: _Optional[str] = ..., left_out: _Optional[int] = ...) -> None: ...

class AuditRequest(_message.Message):
    __slots__ = ("after", "follow")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    after: int
    follow: bool
    def __init__(self, after: _Optional[int] = ..., follow: _Optional[bool] = ...) -> None: ...

class AuditEntry(_message.Message):
    __slots__ = ("number", "at", "event", "fields", "hash")
    class FieldsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    number: int
    at: str
    event: str
    fields: _containers.ScalarMap[str, str]
    hash: str
    def __init__(self, number: _Optional[int] = ..., at: _Optional[str] = ..., event: _Optional[str] = ..., fields: _Optional[_Mapping[str, str]] = ..., hash: _Optional[str] = ...) -> None: ...

class OptOutRequest(_message.Message):
    __slots__ = ("patients", "by")
    PATIENTS_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    patients: _containers.RepeatedScalarFieldContainer[str]
    by: str
    def __init__(self, patients: _Optional[_Iterable[str]] = ..., by: _Optional[str] = ...) -> None: ...

class OptOutReply(_message.Message):
    __slots__ = ("added", "known", "left", "unknown")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    LEFT_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    added: int
    known: int
    left: _containers.RepeatedScalarFieldContainer[str]
    unknown: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, added: _Optional[int] = ..., known: _Optional[int] = ..., left: _Optional[_Iterable[str]] = ..., unknown: _Optional[_Iterable[str]] = ...) -> None: ...
