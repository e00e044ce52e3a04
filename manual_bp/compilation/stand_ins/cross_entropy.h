// A linear layer, softmax and cross-entropy in one, as the page fused_linear_cross_entropy derives it: 64 rows at a time,
// classes down and rows across, so that a maximum or a sum over the classes of 64 rows is one of whole vectors.
// Behind blocks.h; a program may contain this text several times.
#ifndef MANUAL_BP_CROSS_ENTROPY
#define MANUAL_BP_CROSS_ENTROPY

namespace cross_entropy {

using namespace blocks;
constexpr int64_t ROWS = 64;      // at a time: their logits are all that is held beside the results
constexpr int64_t CLASSES = 256;  // at a time: so many rows of the weight and of its cotangent lie in the second cache

struct Sizes {
  int64_t rows, features, classes, ignored;
  float smoothing;
  bool mean;
};

// What is known of ROWS rows.
struct Known {
  float most[ROWS];      // the largest logit
  float others[ROWS];    // the sum of e^distance, but for one largest
  float distance[ROWS];  // the sum of distances from the largest, which smoothing asks for
  float rest[ROWS];      // log(1 + others)
  float scale[ROWS];     // what a row's cost counts; 0 if it is left out
};

inline Vec at(const float* x, int64_t i) { return Vec::loadu(x + i); }

// logits(k, i) = weight(k) . x(i), x with rows across, for some classes; and the largest of each row.
inline void multiply(const Sizes& s, const float* weight, const float* x, float* logits, int64_t first, int64_t last,
                     float* most) {
  product(last - first, ROWS / LANES, weight + first * s.features, s.features, 1, x, ROWS, logits + first * ROWS, ROWS,
          s.features, false);
  for (int64_t k = first; k < last; k++)
    for (int64_t i = 0; i < ROWS; i += LANES) larger(at(most, i), at(logits + k * ROWS, i)).store(most + i);
}

// Logits become distances from the largest, and are summed.
inline void add_up(const Sizes& s, const float* most, float* logits, int64_t first, int64_t last, float* others,
                   float* distance) {
  for (int64_t i = 0; i < ROWS; i += LANES) {
    Vec zero(0.f), exponentials = zero, distances = zero, largest = zero;
    for (int64_t k = first; k < last; k++) {
      Vec d = at(logits + k * ROWS, i) - at(most, i), is_largest = d == zero;
      d.store(logits + k * ROWS + i);
      exponentials = exponentials + Vec::blendv(exponential_of_any(d), zero, is_largest);
      largest = largest + Vec::blendv(zero, Vec(1.f), is_largest);
      distances = distances + d;
    }
    (at(others, i) + exponentials + largest).store(others + i);
    if (s.smoothing != 0) (at(distance, i) + distances).store(distance + i);
  }
}

// Distances become the cotangents of the logits, but for what the label adds.
inline void slopes(const Sizes& s, const Known& known, float* logits, int64_t first, int64_t last) {
  Vec zero(0.f), each(s.smoothing / s.classes);
  for (int64_t i = 0; i < ROWS; i += LANES) {
    Vec rest = at(known.rest, i), scale = at(known.scale, i), left_out = scale == zero;
    for (int64_t k = first; k < last; k++) {
      Vec p = exponential_of_any(at(logits + k * ROWS, i) - rest);
      Vec::blendv(scale * (p - each), zero, left_out).store(logits + k * ROWS + i);
    }
  }
}

template <int threads>
inline void cost(const Sizes& s, Tensor<float> y, Tensor<float> dx, Tensor<float> dweight, Tensor<const float> x,
                 Tensor<const float> weight, Tensor<const int64_t> target) {
  int64_t blocks_of_classes = (s.classes + CLASSES - 1) / CLASSES, counted = 0;
  for (int64_t i = 0; i < s.rows; i++) counted += target.data[i] != s.ignored;
  float each = s.mean ? 1 / float(counted) : 1.f;
  std::unique_ptr<float[]> memory(new float[ROWS * (s.classes + s.features)]);
  std::unique_ptr<float[]> parts(new float[threads * ROWS * s.features]);
  float *logits = memory.get(), *across = logits + ROWS * s.classes;
  Known known;
  double total = 0;
  for (int64_t start = 0; start < s.rows; start += ROWS) {
    int64_t count = std::min(ROWS, s.rows - start);
    const float* rows = x.data + start * s.features;
    for (int64_t w = 0; w < s.features; w++)
      for (int64_t i = 0; i < ROWS; i++) across[w * ROWS + i] = i < count ? rows[i * s.features + w] : 0.f;
    std::fill_n(known.most, ROWS, NEVER);
    std::fill_n(known.others, ROWS, -1.f);  // of several largest one is left out
    std::fill_n(known.distance, ROWS, 0.f);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      float most[ROWS], others[ROWS], distance[ROWS];
      std::fill_n(most, ROWS, NEVER);
      std::fill_n(others, ROWS, 0.f);
      std::fill_n(distance, ROWS, 0.f);
#pragma omp for schedule(static)
      for (int64_t b = 0; b < blocks_of_classes; b++)
        multiply(s, weight.data, across, logits, b * CLASSES, std::min((b + 1) * CLASSES, s.classes), most);
#pragma omp critical
      for (int64_t i = 0; i < ROWS; i += LANES) at::vec::maximum(at(known.most, i), at(most, i)).store(known.most + i);
#pragma omp barrier
#pragma omp for schedule(static)
      for (int64_t b = 0; b < blocks_of_classes; b++)
        add_up(s, known.most, logits, b * CLASSES, std::min((b + 1) * CLASSES, s.classes), others, distance);
#pragma omp critical
      for (int64_t i = 0; i < ROWS; i++) {
        known.others[i] += others[i];
        known.distance[i] += distance[i];
      }
    }
    float at_label[ROWS];
    for (int64_t i = 0; i < ROWS; i++) {
      bool counts = i < count && target.data[start + i] != s.ignored;
      known.rest[i] = std::log1p(known.others[i]);
      known.scale[i] = counts ? each : 0.f;
      if (!counts) continue;
      float z = logits[target.data[start + i] * ROWS + i] - known.rest[i];
      at_label[i] = each * ((1 - s.smoothing) * std::expm1(z) + s.smoothing / s.classes * (s.classes * std::exp(z) - 1));
      total -= s.smoothing == 0 ? z : (1 - s.smoothing) * z;
      if (s.smoothing != 0) total -= s.smoothing / s.classes * (known.distance[i] - s.classes * known.rest[i]);
    }
    std::fill_n(parts.get(), threads * ROWS * s.features, 0.f);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      float* part = parts.get() + thread() * ROWS * s.features;
#pragma omp for schedule(static)
      for (int64_t b = 0; b < blocks_of_classes; b++) {
        int64_t first = b * CLASSES, last = std::min(first + CLASSES, s.classes), vectors = s.features / LANES;
        slopes(s, known, logits, first, last);
        for (int64_t i = 0; i < count; i++) {
          int64_t label = target.data[start + i];
          if (known.scale[i] != 0 && label >= first && label < last) logits[label * ROWS + i] = at_label[i];
        }
        const float* g = logits + first * ROWS;
        product(count, vectors, g, 1, ROWS, weight.data + first * s.features, s.features, part, s.features,
                last - first, true);
        product(last - first, vectors, g, ROWS, 1, rows, s.features, dweight.data + first * s.features, s.features,
                count, start > 0);
      }
    }
    for (int64_t j = 0; j < count * s.features; j++) {
      float sum = 0;
      for (int t = 0; t < threads; t++) sum += parts[t * ROWS * s.features + j];
      dx.data[start * s.features + j] = sum;
    }
  }
  *y.data = s.mean ? float(total / double(counted)) : float(total);
}

}  // namespace cross_entropy
#endif
