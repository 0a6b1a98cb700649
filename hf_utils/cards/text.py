"""What a model card says in words: the split protocols, the faults of the data, and how to use a checkpoint."""

from collections.abc import Mapping

PROTOCOLS = {
    "filtered": (
        "The fault-filtered split of GTZAN, made by hand: 443 training, 197 validation and 290 test tracks, without "
        "those that are faulty (Sturm, arXiv 1306.1461); no artist that is known is on two sides. Where a copy of the "
        "dataset lacks tracks, so does the split."
    ),
    "artist_folds": (
        "Fold {fold} (counted from 0) of {num_folds}, stratified by genre, seed {seed}. Tracks of one artist, and "
        "known repetitions, are on one side only; a track of an unknown artist stands alone, so an artist without a "
        "name can still be on two sides. One fold is not the cross-validated score: that pools all of them."
    ),
    "stratified": (
        "80 % training, 10 % validation and 10 % test tracks, drawn per genre with seed {seed}. Tracks of one artist "
        "or album can be on two sides, and a model that knows the artist need not know the genre: expect scores to be "
        "several points too high for music by new artists."
    ),
    "provided": (
        "The splits that came with the dataset. Nothing is known here of how they were drawn; if artists are on two "
        "sides, scores are too high for music by new artists."
    ),
}


def is_gtzan(results: Mapping) -> bool:
    """Whether the run's data is GTZAN, as far as its name and protocol tell."""
    return results["protocol"]["name"] == "filtered" or "gtzan" in str(results["config"].get("dataset_name")).lower()


def _has_origin(origin: str):
    def applies(results: Mapping) -> bool:
        sets = [*results["data"].get("splits", {}).values(), *results["data"].get("evaluation_sets", {}).values()]
        return any(origin in each.get("origins", {}) for each in sets)

    return applies


# (whether it applies to a run's results, Markdown)
CAVEATS = (
    (
        lambda results: True,
        "No track, source track, known repetition or identical recording of an evaluated set was in training: the run "
        "checks this and would not have started.",
    ),
    (
        is_gtzan,
        "GTZAN's recordings were collected without their owners' leave, and it states no licence; the weights may not "
        "be free of that.",
    ),
    (
        is_gtzan,
        "GTZAN has faults that no split cures: mislabelled and contentious tracks, repeated and distorted recordings, "
        "35 of 100 reggae tracks by one artist (Sturm, arXiv 1306.1461). Its genres are those of one collection, with "
        "one label per track.",
    ),
    (
        _has_origin("synthetic"),
        "Part of the data is generated music. MusicGen's weights are CC BY-NC 4.0: treat what it made, and this "
        "model, as not for commercial use. Other generators have their own licences, named on their dataset's card.",
    ),
    (
        _has_origin("noisy"),
        "Part of the data is altered copies of real tracks; they carry the licence of those tracks.",
    ),
)

USAGE = """from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, pipeline

classify = pipeline("audio-classification", model={model}, top_k=None{trust})
print(classify({{"raw": samples, "sampling_rate": sample_rate}}))   # mono float32, one window long

feature_extractor = AutoFeatureExtractor.from_pretrained({model}{trust})
model = AutoModelForAudioClassification.from_pretrained({model}{trust})
inputs = feature_extractor(samples, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt")
probabilities = model(**inputs).logits.softmax(-1)                   # samples at that rate, one window long"""


def show_corruption(name: str) -> str:
    """Return a kind or severity of configs/corruptions.yaml as people write it: 20_db is 20 dB."""
    return name.replace("_", " ").replace(" db", " dB")
