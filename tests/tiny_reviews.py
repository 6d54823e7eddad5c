"""A builder that prepares a few reviews where TensorFlow Datasets would keep IMDB."""

import tensorflow_datasets as tfds


class ImdbReviews(tfds.core.GeneratorBasedBuilder):
  """imdb_reviews/plain_text 1.0.0, but tiny."""

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="plain_text")]  # noqa: RUF012

  def _info(self):
    label = tfds.features.ClassLabel(names=["neg", "pos"])
    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": label})
    return self.dataset_info_from_configs(features=features)

  def _split_generators(self, _):
    return {"train": self._generate_examples(40), "test": self._generate_examples(10)}

  def _generate_examples(self, number):
    for n in range(number):
      yield n, {"text": f"café number {n} is {'good' if n % 2 else 'bad'}", "label": n % 2}
