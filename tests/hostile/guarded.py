"""Which case holds which check: with the check off, the case no longer gets its code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ADMIT, WORK = "client.requests.gates.admit: ", "client.requests.gates.require_at_work: "
FORM, ORDER = "client.requests.gates._require_form: ", "client.requests.gates._require_in_order: "
ARRAYS: Final = "client.requests.gates._require_arrays: "
COMPUTE, BEGIN = "client.requests.round.compute: ", "client.requests.round._begin: "
OFFER, CLOSE = "client.requests.proposals.offer: ", "client.requests.proposals.close: "
AMEND, CONSENT = "client.consent.amendments.take: ", "client.consent.amendments.consent: "
SAME: Final = "require_same(amendment.numerics, site.numerics(plan.study), ticks=True)"
PROVIDE, KEEP, KEPT = (
    "client.requests.proposals.provide: ",
    "client.frozen.FrozenWeights.keep: ",
    "client.frozen.FrozenWeights.of: ",
)
PROPOSE, APPROVED = (
    "client.requests.proposals.propose: ",
    "client.records.approvals.Approvals.require: ",
)
LEDGER, BEYOND = (
    "client.records.ledger.Ledger.",
    "client.records.ledger.Ledger._refuse_beyond_plan: ",
)
ACCEPTABLE, ALLOWED = (
    "client.consent.policy.require_acceptable: ",
    "client.consent.policy.require_allowed: ",
)
BOUNDS = "client.consent.policy.require_bounds: "
TRAINABLE, ROOM = (
    "client.consent.policy.require_trainable: ",
    "client.consent.policy.require_fits_device: ",
)
OURS, BROUGHT = (
    "client.consent.policy._require_numbers: ",
    "client.records.receipts.SiteReceipts._brought: ",
)
TAKE, HERE = (
    "client.records.receipts.SiteReceipts.take: ",
    "client.records.receipts.SiteReceipts._require_here: ",
)
RECORD, FIELD = "common.wire.messages._from_record: ", "common.wire.messages._well_formed: "
ARRAY, STATED = "common.wire.messages._read_arrays: ", "common.privacy.mechanisms.understated: "
DEARER, COVERS = (
    "common.privacy.mechanisms._dearer_than_stated: ",
    "common.privacy.mechanisms._covers: ",
)
STUDY: Final = "common.study.study_file."
TEXT: Final = "common.text."
CLASSES: Final = "common.tasks.classification.Classification._classes_agree: "
NUMBERS: Final = "common.tasks.regression.Regression._range_agrees: "
MASKED: Final = "common.tasks.segmentation.Segmentation._classes_agree: "
THIS_LEDGER: Final = "self._ledger.hash_at(heads.ledger.length) != heads.ledger.hash"
THIS_LOG: Final = "self._audit.hash_at(heads.audit.length) != heads.audit.hash"

HELD: Final[dict[str, str]] = {
    ADMIT + "require_at_work(site)": "a round for a site that is paused",
    "client.requests.handler._unreadable: gates.require_at_work(site)": (
        "junk for a site that is paused"
    ),
    WORK + "site.store.fact('paused')": "a round for a site that is paused",
    WORK + "not within(site.file.policy.hours, datetime.now().astimezone().time())": (
        "a round outside the site's hours"
    ),
    ADMIT
    + "site.approvals.require_heard(request.plan_hash, proposed=request.purpose == 'propose')": (
        "a stored reply of a stopped study"
    ),
    ADMIT + "request.purpose != purpose": "an evaluation in a message for training",
    ADMIT + "_require_form(request)": "a plan with weights beside it",
    ADMIT + "site.receipts.take(request)": "a forged receipt",
    AMEND + "amendment.plan != plan.hash": "an amendment of another plan",
    AMEND + "plan.study.study.name != request.study": "an amendment under another study's name",
    AMEND + "site.ledger.require(request.ledger)": "an amendment that has seen a longer ledger",
    AMEND + "_require_next(before, amendment)": "an amendment out of its turn",
    "client.consent.amendments._require_next: "
    "(amendment.number, amendment.before) != (before.number + 1, before.identity)": (
        "an amendment on what was never agreed on"
    ),
    "client.consent.amendments._require_next: "
    "not differences(before.numerics, amendment.numerics)": ("an amendment that changes nothing"),
    "client.consent.amendments.require_same: changed": "another version of what computes",
    TEXT + "_no_hash: reads_as_hash(text)": "a study that is called as a plan's hash begins",
    FORM + "asked in ('offer', 'propose', 'amend', 'close') and request.arrays is not None": (
        "a plan with weights beside it"
    ),
    FORM + "asked in ('offer', 'propose', 'amend', 'provide') and number": "a proposal in a round",
    FORM + "asked == 'offer' and request.plan_hash": "an offer asked for under a plan's hash",
    FORM + "asked in ('provide', 'train', 'evaluate', 'close') and request.document": (
        "a metric request for one patient"
    ),
    FORM + "request.acknowledged > (max(number - 1, 0) if asked == 'train' else number)": (
        "a round that acknowledges itself"
    ),
    CLOSE + "approval is None": "the end of another plan",
    CLOSE + "approval.plan.study.study.name != request.study": (
        "the end of another study under this plan's hash"
    ),
    PROVIDE + "approval.plan.study.study.name != request.study": (
        "frozen weights under another study's name"
    ),
    OFFER + "study.study.name != request.study": ("an offer asked for under another study's name"),
    OFFER + "except ValidationError": "an offer for no study",
    PROPOSE + "plan.hash != request.plan_hash": "a plan under another plan's hash",
    PROPOSE + "plan.study.study.name != request.study": "a plan under another study's name",
    PROPOSE + "site.approvals.require(plan.hash)": "a plan that was denied, again",
    PROPOSE + "site.ledger.require(request.ledger)": "a proposal that has seen a longer ledger",
    ADMIT + "_require_in_order(site, request, plan, part)": "a round in another study's name",
    ADMIT + "_require_arrays(request, plan)": "whole numbers for weights",
    ADMIT + "require_allowed(plan, site)": "a round of a task that the policy takes no more",
    ADMIT + "site.ledger.require_chargeable(charge, plan)": ("the same round with other arrays"),
    ORDER + "request.study != plan.study.study.name": "a round in another study's name",
    ORDER + "site.ledger.require(request.ledger)": "a ledger longer than the site's",
    ORDER + "request.round not in foreseen": "a round more than approved",
    ORDER + "request.round < last": "a round that is over, with other arrays",
    ORDER + "site.ledger.is_committed(request.identity)": (
        "the last round after its acknowledgement"
    ),
    ARRAYS + "arrays is None": "no weights",
    ARRAYS + "arrays.dtype != np.float32": "whole numbers for weights",
    ARRAYS + "arrays.shape != (plan.weights,)": "a weight less",
    ARRAYS + "not np.isfinite(arrays).all()": "a weight that is not a number",
    "client.records.approvals.Approvals.require_heard: "
    "not (proposed and approval.standing == 'expired')": "a stored reply of a stopped study",
    "client.consent.decisions.consider: require_trainable(plan, site)": "less noise",
    "client.consent.decisions.consider: require_acceptable(plan, site)": (
        "less noise, where a person is asked"
    ),
    "client.consent.decisions.consider: _require_pending_below_limit(site)": (
        "one plan more than may wait for a person"
    ),
    "client.consent.decisions.consider: _require_running_below_limit(site)": (
        "one plan more than may run at once"
    ),
    "client.consent.decisions._require_running_below_limit: running >= most": (
        "one plan more than may run at once"
    ),
    "client.consent.decisions._require_pending_below_limit: waiting >= MOST_PENDING": (
        "one plan more than may wait for a person"
    ),
    LEDGER + "require: self.hash_at(seen.length) != seen.hash": "a ledger longer than the site's",
    LEDGER + "require_chargeable: row['identity'] != charge.identity": (
        "the same round with other arrays"
    ),
    TRAINABLE + "require_acceptable(plan, site)": "less noise",
    ACCEPTABLE + "_require_numbers(plan, site)": "another site's plan",
    ACCEPTABLE + "require_fits_device(plan.study, site)": (
        "a plan of few weights that takes more memory than the site gives"
    ),
    ACCEPTABLE + "require_same(agreed, today, ticks=True)": "a shorter tick",
    OFFER + "require_fits_device(study, site)": (
        "an offer for a study that takes more memory than the site gives"
    ),
    ROOM + "found > most": "a plan of few weights that takes more memory than the site gives",
    ROOM + "images > site.file.site.cache_bytes": (
        "a plan of images that take more disk than the site gives"
    ),
    ACCEPTABLE + "fault is not None": "less noise",
    ALLOWED + "require_bounds(plan.study, plan.mechanism, site.file.policy)": (
        "a round under a policy that has become tighter"
    ),
    ACCEPTABLE + "require_bounds(plan.study, plan.mechanism, site.file.policy)": (
        "a larger delta than the policy's"
    ),
    ALLOWED + "_require_numbers(plan, site)": (
        "a round of a site that declares another number by now"
    ),
    ALLOWED + "require_same(agreed, site.numerics(plan.study, agreed.choice))": (
        "a round on a machine that computes otherwise"
    ),
    BOUNDS + "study.task.kind not in policy.tasks": (
        "a round of a task that the policy takes no more"
    ),
    BOUNDS + "study.aggregation.min_sites < policy.min_sites": (
        "fewer sites than the policy's smallest aggregate"
    ),
    BOUNDS + "mechanism.delta > policy.delta": "a larger delta than the policy's",
    BOUNDS + "mechanism.epsilon > policy.max_epsilon_per_study": (
        "a round under a policy that has become tighter"
    ),
    BOUNDS + "not policy.allow_no_privacy": 'mode "none"',
    OURS + "told['site']": "another site's plan",
    OURS + "told['most_patients']": "room for more patients than the site's bound",
    OURS + "told['known_key']": "the known key",
    OURS + "told['weights']": "more weights than the model has",
    OURS + "told['frozen']": "frozen weights of a model that is trained whole",
    OURS + "told['weight']": "a larger weight in the average",
    OURS + "plan.declared_patients < plan.study.data.min_patients": (
        "more patients than the site declares"
    ),
    OURS + "found != ours": "another site's plan",
    BROUGHT + "not receipt.holds": "a forged receipt",
    BROUGHT + "heads is None": "a receipt for a longer ledger",
    TAKE + "self._require_here(each)": "a receipt for charges that were lost",
    BROUGHT + "_require_nothing_said(request)": "heads without a receipt",
    "client.records.receipts._require_nothing_said: "
    "(request.receipt_ledger, request.receipt_seal) != (LedgerHead(), NO_SEAL)": (
        "heads without a receipt"
    ),
    "client.sitefile.SiteFile.dataset: found is None": "another data set",
    "client.sitefile.SiteFile.dataset: getattr(found, wanted) is None": (
        "masks where there are none"
    ),
    RECORD + "set(content) <= {'fields', 'arrays'}": "a metric record beside the request",
    RECORD + "'fields' in content": "an empty message",
    RECORD + "set(config) != set(wanted)": "an unknown field",
    RECORD + "type(values[name]) is type_": "a round as a string",
    RECORD + "_well_formed(name, values[name])": "a negative round",
    FIELD + "name not in _FORMS or re.fullmatch(_FORMS[name], value) is not None": (
        "a study named as a path on the wire"
    ),
    FIELD + "0 <= value <= LARGEST": "a round beyond 32 bits",
    FIELD + "re.search('[\\ud800-\\udfff]', value) is None": "a document with half a character",
    ARRAY + "not isinstance(record, ArrayRecord)": "a configuration for arrays",
    ARRAY + "set(record) != {'flat'}": "two arrays",
    ARRAY + "array.stype == STORAGE": "weights in the other order",
    ARRAY + "len(array.shape) == 1": "a single number",
    ARRAY + "len(array.data) == count * dtype.itemsize": ("fewer bytes than a vast shape says"),
    "common.wire.messages._demand: not condition": "a negative round",
    "common.plan.read_agreed: found.text != text": "a space in a plan",
    "common.plan.read_agreed: except ValidationError": "a plan with an unknown field",
    STATED + "proposed == expected": 'a private mechanism under mode "none"',
    STATED + "isinstance(privacy, NoPrivacy)": 'mode "none" slipped in beside a private study',
    STATED + "holds['sampling_rate'] proposed.step.sampling_rate == rate": (
        "a smaller sampling rate"
    ),
    STATED + "holds['count'] proposed.step.count == 1": "a step that counts twice",
    STATED + "holds['count'] evaluation is None or evaluation.count == 1": (
        "an evaluation that counts twice"
    ),
    STATED + "holds['evaluation'] (evaluation is not None) == bool(study.evaluation_rounds)": (
        "an evaluation without its mechanism"
    ),
    STATED + "holds['evaluation'] evaluation is None or evaluation.sampling_rate == 1.0": (
        "an evaluation said to be of a sample"
    ),
    STATED
    + "holds['most_sampled'] proposed.most_sampled"
    + " == most_sampled(study, declared_patients, most_patients)": "a larger cap on a sample",
    STATED + "holds['clip_norm'] proposed.clip_norm == privacy.clip_norm": "a larger clip norm",
    STATED + "holds['divisor'] proposed.divisor == rate * declared_patients": "another divisor",
    STATED + "holds['cell_noise'] proposed.cell_noise == cell_noise": (
        "no noise on the histogram's cells"
    ),
    STATED + "holds['delta'] proposed.delta == privacy.delta": "another delta in the mechanism",
    DEARER
    + "not _covers(proposed.epsilon_training, proposed.step, steps, privacy.epsilon,"
    + " delta)": "less noise",
    DEARER
    + "event and (not _covers(proposed.epsilon_evaluation, event, evaluations, share,"
    + " privacy.delta))": "less noise on the histogram",
    COVERS + "exceeds(rate, noise, times, delta, allowed)": "hardly any noise",
    COVERS + "epsilon_of(rate, noise, times, delta) <= stated * (1 + SAME) + SAME": (
        "an understated epsilon"
    ),
    TEXT + "_slug: re.fullmatch('[a-z0-9][a-z0-9-]{0,62}', text) is None": (
        "a data set named as a path"
    ),
    TEXT + "_words: not 1 <= len(text) <= 200": "a title without end",
    TEXT + "_words: any(map(is_steering, text))": ("a title that is read from right to left"),
    CLASSES + "len(set(self.classes)) != len(self.classes)": "a class twice",
    STUDY + "Study._sections_agree: require_combined(self)": "more steps than can be accounted",
    "common.plan.Plan._mechanism_is_bounded: require_mechanism(self.mechanism)": (
        "noise that drowns everything"
    ),
    BOUNDS + "ends and (not each.within(ends))": ("a round under a range that has become narrower"),
    NUMBERS + "self.classes": "classes of a number",
    NUMBERS + "not self.highest - self.lowest >= least > 0.0": "a range without width",
    MASKED + "len(set(self.classes)) != len(self.classes)": "a class twice in masks",
    MASKED + "weights is not None and len(weights) != len(self.classes)": (
        "weights of pixels for a patient"
    ),
    CLASSES + "weights is not None and len(weights) != len(self.classes)": (
        "weights of classes for a patient"
    ),
    STUDY + "Study._sections_agree: late": "an evaluation after the last round",
}
"""Alone between a case and what it wants."""


@dataclass(frozen=True)
class Shared:
    """A check that is one of several in the way of a case.

    Attributes:
        case: which.
        others: checks that must be off too before the case gets any further.
        code: what the case gets while only the others are off; its own code where that is not
            said, since this check then gives the same.
    """

    case: str
    others: tuple[str, ...]
    code: str | None = None


SHARED: Final[dict[str, Shared]] = {
    ACCEPTABLE + "require_same(agreed, today)": Shared(
        "another kernel", (ACCEPTABLE + "require_same(agreed, today, ticks=True)",)
    ),
    APPROVED + "approval is not None": Shared(
        "a round of an unknown plan",
        (APPROVED + "standing == 'approved'", APPROVED + "approval.key is not None"),
    ),
    APPROVED + "standing == 'approved'": Shared(
        "a round of a plan that was denied", (APPROVED + "approval.key is not None",)
    ),
    APPROVED + "approval.key is not None": Shared(
        "a round of a plan that was denied", (APPROVED + "standing == 'approved'",)
    ),
    APPROVED + "self.require_heard(plan_hash)": Shared(
        "a round of a stopped study",
        (
            ADMIT
            + "site.approvals.require_heard(request.plan_hash,"
            + " proposed=request.purpose == 'propose')",
        ),
    ),
    LEDGER + "require_chargeable: self._refuse_beyond_plan(charge, plan)": Shared(
        "a round more than approved, after the last",
        (ORDER + "request.round not in foreseen",),
    ),
    BEYOND + "not within": Shared(
        "a round more than approved, after the last",
        (ORDER + "request.round not in foreseen",),
    ),
    AMEND + SAME: Shared(
        "an amendment to what the site does not compute with",
        (CONSENT + SAME,),
    ),
    STUDY + "Study._sections_agree: require_agreed(self)": Shared(
        "one release that is several rounds",
        # A plan says what a study file may leave out.
        ("common.plan.read_agreed: found.text != text",),
    ),
    KEEP + "not plan.frozen": Shared(
        "frozen weights that no plan names", (KEEP + "content_hash(arrays) != plan.frozen",)
    ),
    KEEP + "content_hash(arrays) != plan.frozen": Shared(
        "frozen weights that no plan names", (KEEP + "not plan.frozen",)
    ),
    OURS + "told['declared_patients']": Shared(
        "more declared patients", (ACCEPTABLE + "fault is not None", OURS + "told['weight']")
    ),
    RECORD + "not isinstance(config, ConfigRecord)": Shared(
        "metrics for fields", (RECORD + "set(config) != set(wanted)",)
    ),
    FIELD + "value in get_args(Purpose)": Shared(
        "an unknown purpose", (ADMIT + "request.purpose != purpose",)
    ),
    FIELD + "len(value) in (0, SIGNATURE_BYTES)": Shared(
        "a receipt without end", (BROUGHT + "not receipt.holds", BROUGHT + "heads is None")
    ),
    HERE + THIS_LEDGER: Shared("a receipt for charges that were lost", (HERE + THIS_LOG,)),
    HERE + THIS_LOG: Shared("a receipt for charges that were lost", (HERE + THIS_LEDGER,)),
    ARRAY + "array.dtype in DTYPES": Shared(
        "weights of an unknown type", (ARRAYS + "arrays.dtype != np.float32",)
    ),
}
"""One of several in the way."""

WHILE_COMPUTING: Final = (
    "a decision while a round is computed: tests/client/requests/test_handler.py"
)
AMENDED: Final = "a person's consent, or another process's: tests/client/consent/test_amendments.py"
WHILE_WAITING: Final = "a decision while a reply waits: tests/client/training/test_pacing.py"
CARD: Final = "a worker's card that is lost: tests/on_accelerator/test_lost.py"
LIMIT: Final = "a worker's limit: tests/client/requests/test_silence.py"
UNTRAINABLE: Final = (
    "no model of a study needs it; what it finds: tests/client/training/test_tuning.py"
)
FROZEN: Final = "a study that freezes weights: tests/client/requests/test_frozen_weights.py"
RELEASED: Final = "a study of one release: tests/common/study/test_one_shot.py"
INITIAL: Final = "the coordinator's reading of its files: tests/server/cli/test_weights.py"
SAME_PLAN: Final = "both numbers come from one plan: tests/client/records/test_ledger.py"
ELSEWHERE: Final[dict[str, str]] = {
    KEEP + "arrays is None": FROZEN,
    KEEP + "not np.isfinite(arrays).all()": FROZEN,
    KEPT + "content_hash(found) != plan.frozen": FROZEN,
    BOUNDS + "initial is not None and initial.sha256 in policy.own_weights": (
        "a site's own knowledge: tests/client/consent/test_policy.py"
    ),
    "common.study.one_shot.require_agreed: is_now != should": RELEASED,
    "common.study.one_shot.require_agreed: study.aggregation.options.every_reply": RELEASED,
    "common.study.one_shot.require_agreed: model.projection is None": RELEASED,
    "common.study.one_shot.require_agreed: not study.task.sums": RELEASED,
    STUDY + "load_initial: found != named.sha256": INITIAL,
    STUDY + "_beside: len(data) > LARGEST": INITIAL,
    "client.requests.handler._failing_in_silence: require_memory(error)": LIMIT,
    "client.requests.handler._failing_in_silence: _require_card(site, error)": CARD,
    "client.requests.handler._answered: _require_card(site, error)": CARD,
    "client.requests.handler._require_card: "
    "site.serves and DEVICES[site.file.device.name].is_lost()": CARD,
    "client.consent.decisions._prepare_or_tell: require_memory(error)": LIMIT,
    COMPUTE + "site.ledger.is_committed(request.identity)": (
        "a second process on one state folder: tests/client/requests/test_leaving.py"
    ),
    "client.requests.round._arrays: approval.key is None": (
        "for the types alone: the approval was required above"
    ),
    BEGIN + "_require_still_approved(site, approval)": (
        "a decision while patients are read: tests/client/requests/test_leaving.py"
    ),
    BEGIN + "site.ledger.reserve(charge, plan)": (
        "every sound round is charged: tests/client/requests/test_handler.py"
    ),
    COMPUTE + "_require_still_approved(site, due.approval)": WHILE_COMPUTING,
    COMPUTE + "amendments.arithmetic(site.store, plan) != due.arithmetic": AMENDED,
    CONSENT + SAME: AMENDED,
    CONSENT + "not decided.rowcount": AMENDED,
    AMEND + "not automatic": AMENDED,
    "client.requests.round._require_still_approved: "
    "site.approvals.require(approval.plan.hash).key != approval.key": WHILE_COMPUTING,
    TRAINABLE + "require_ready(plan.study, plan.mechanism, "
    "arithmetic(site.store, plan).numerics.choice)": UNTRAINABLE,
    "client.requests.handler._until_the_tick: _require_may_leave(site, request)": WHILE_WAITING,
    "client.requests.handler._require_may_leave: site.approvals.require_heard(request.plan_hash)": (
        WHILE_WAITING
    ),
    "client.requests.handler._require_may_leave: site.store.fact('paused')": WHILE_WAITING,
    "client.consent.decisions.approve: require_trainable(plan, site)": (
        "a person's approval: tests/client/administration/test_service.py"
    ),
    "client.consent.decisions._approved: _require_running_below_limit(site)": (
        "a person's approval: tests/client/administration/test_service.py"
    ),
    "client.consent.decisions._approved: _require_uncrowded(plan, drafted)": (
        "a person's approval: tests/client/requests/test_crowded.py"
    ),
    "client.consent.decisions._require_uncrowded: drafted.crowded": (
        "a person's approval: tests/client/requests/test_crowded.py"
    ),
    "common.plan.Offer._no_more_than_most: require_bound_covers_declared(self.declared_patients,"
    + " self.most_patients)": "the coordinator's reading of offers: tests/common/test_plan.py",
    "common.plan.require_bound_covers_declared: most_patients < declared_patients": (
        "the coordinator's reading of offers: tests/common/test_plan.py"
    ),
    LEDGER + "reserve: self.require_chargeable(charge, plan)": (
        "once more under the store's lock: tests/client/records/test_ledger.py"
    ),
    BEYOND + "charge.event != event": SAME_PLAN,
    ARRAY + "most_weights is None or count <= most_weights": (
        "the coordinator's bound on updates: tests/hostile/test_updates.py"
    ),
    "common.privacy.mechanisms._calibrate_training: noise <= MOST_NOISE": (
        "the coordinator's calibration: tests/common/privacy/test_mechanisms.py"
    ),
    "common.privacy.mechanisms._calibrate_evaluation: math.isinf(noise)": (
        "the coordinator's calibration: tests/common/privacy/test_mechanisms.py"
    ),
    "common.models.spec._explain_batch_norm: norm == 'batch'": (
        "says why; the type allows no such value: tests/common/study/test_study_file.py"
    ),
}
"""No message can come this far; where the check is tested instead."""

ORIGIN, ANSWERED = "server.study.verify._wrong_origin: ", "server.study.verify._wrong_answer: "
CONTENT, ENTRIES = "server.study.verify._wrong_content: ", "server.study.verify._wrong_array: "
HEAD: Final = "server.study.verify._wrong_ledger: "
VERIFIED: Final[dict[str, str]] = {
    ORIGIN + "reply.site != site": "in another site's name",
    ORIGIN + "not verify(key, reply.signed_bytes, reply.signature)": "no signature",
    ANSWERED + "reply.request != request.identity": "for a request that never was",
    ANSWERED + "found != wanted": "for another round",
    "server.study.verify._refused: reply.code not in set(RefusalCode)": (
        "a code that is not in the list"
    ),
    CONTENT + "bool(reply.document) != shape.document": "a document where none is foreseen",
    CONTENT + "reply.arrays is None": "no array",
    CONTENT + "not shape.length": "an array where none was asked",
    ENTRIES + "array.dtype.name != shape.dtype": "long integers",
    ENTRIES + "array.size != shape.length": "an entry less",
    ENTRIES + "largest > shape.limit": "an entry out of range",
    ENTRIES + "shape.saturates and largest == shape.limit": "an entry at the end of its range",
    "server.study.verify._wrong_votes: least < -reach": "fewer patients than none",
    "server.study.verify._wrong_votes: most > votes.most + reach": (
        "more patients in all classes than it declares"
    ),
    HEAD + "sent.length < known.length": "a ledger that moved back",
    HEAD + "sent.length == known.length and sent.hash != known.hash": "a ledger rewritten",
}
"""The same of the coordinator: by check, the hostile update that it keeps out."""
