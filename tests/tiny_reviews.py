"""A tiny replacement for the IMDB builder of TensorFlow Datasets."""

import tensorflow_datasets as tfds


class ImdbReviews(tfds.core.GeneratorBasedBuilder):
  """imdb_reviews/plain_text 1.0.0 with 50 reviews."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="plain_text")]  # noqa: RUF012

  def _info(self):
    label = tfds.features.ClassLabel(names=["neg", "pos"])
    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": label})
    return self.dataset_info_from_configs(features=features)

  def _split_generators(self, _):
    return {"train": self._generate_examples(40), "test": self._generate_examples(10)}

  def _generate_examples(self, num_examples):
    for n in range(num_examples):
      yield n, {"text": f"café number {n} is {'good' if n % 2 else 'bad'}", "label": n % 2}
