// Softmax and cross-entropy, and the cotangent of the logits for dy = 1, as the page softmax_cross_entropy derives them:
// a row of classes at a time, which stays in the caches, or a vector of rows where these lie side by side, as those of an
// image do.  Behind softmax.h; a program may contain this several times.
#ifndef MANUAL_BP_SOFTMAX_CROSS_ENTROPY
#define MANUAL_BP_SOFTMAX_CROSS_ENTROPY

namespace softmax_cross_entropy {

using namespace softmax;

// log p of the label; dx = each * (p - 1 at the label), which may take the place of x.  One largest logit is left out of
// the sum, so that log1p and expm1 keep the digits of a p that is nearly 1.
inline float row(int64_t n, const float* x, float* dx, int64_t label, float each) {
  float most = largest_of(x, n);
  int64_t place = place_of(most, x, n);
  float chosen = x[label];
  exponentials(n, x, most, dx);
  float its_own = dx[place];  // 1, or NaN
  dx[place] = 0;
  float total = sum_of(n, dx) + (its_own - 1), z = chosen - most - std::log1p(total);
  dx[place] = its_own;
  scale_row(n, each / (1 + total), dx);
  dx[label] = each * std::expm1(z);
  return z;
}

// Likewise for up to LANES rows side by side, the next class of each `apart` further on: the sum of weight * log p over
// those that count.
inline double vector_of_rows(int64_t rows, int64_t n, int64_t apart, const float* x, float* dx, const int64_t* label,
                             const float* weight, int64_t ignored, float each) {
  Vec most = Vec::loadu(x, rows), total(0.f), found(0.f), zero(0.f), one(1.f);
  for (int64_t j = 1; j < n; j++) most = larger(most, Vec::loadu(x + j * apart, rows));
  float chosen[LANES] = {}, times[LANES] = {}, counts[LANES] = {}, z[LANES], slope[LANES];
  for (int64_t i = 0; i < rows; i++)
    if (label[i] != ignored) {
      chosen[i] = x[label[i] * apart + i];
      times[i] = each * (weight ? weight[label[i]] : 1);
      counts[i] = 1;
    }
  for (int64_t j = 0; j < n; j++) {
    Vec logit = Vec::loadu(x + j * apart, rows), p = exponential_of_any(logit - most);
    Vec is_first = (logit == most) & (found == zero);
    total = total + Vec::blendv(p, p - one, is_first);  // 1 - 1, or NaN
    found = Vec::blendv(found, one, is_first);
    p.store(dx + j * apart, rows);
  }
  Vec log_p = Vec::loadu(chosen) - most - total.log1p(), share = Vec::loadu(times) * inverse(one + total);
  Vec is_counted = Vec::loadu(counts) == one;
  for (int64_t j = 0; j < n; j++)
    Vec::blendv(zero, share * Vec::loadu(dx + j * apart, rows), is_counted).store(dx + j * apart, rows);
  log_p.store(z);
  (Vec::loadu(times) * log_p.expm1()).store(slope);
  double sum = 0;
  for (int64_t i = 0; i < rows; i++)
    if (label[i] != ignored) {
      dx[label[i] * apart + i] = slope[i];
      sum += (weight ? weight[label[i]] : 1) * z[i];
    }
  return sum;
}

// beside: so many rows lie side by side, and then those of the next class; 1 where the classes do.
struct Sizes {
  int64_t rows, classes, ignored;
  bool mean;
  int64_t beside;
};

// weight: of each class, if they are not all 1.
template <int threads>
inline void cost(const Sizes& s, Tensor<float> y, Tensor<float> dx, Tensor<const float> x, Tensor<const int64_t> target,
                 Tensor<const float> weight) {
  auto counts = [&](int64_t label) { return label == s.ignored ? 0.f : weight.data ? weight.data[label] : 1.f; };
  double counted = 0;
  for (int64_t i = 0; i < s.rows; i++) counted += counts(target.data[i]);
  float each = s.mean ? 1 / float(counted) : 1.f;
  double totals[threads] = {};
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    double total = 0;
    if (s.beside == 1) {
#pragma omp for schedule(static)
      for (int64_t i = 0; i < s.rows; i++) {
        int64_t label = target.data[i];
        float* to = dx.data + i * s.classes;
        if (label == s.ignored)
          std::fill_n(to, s.classes, 0.f);
        else
          total -= counts(label) * row(s.classes, x.data + i * s.classes, to, label, each * counts(label));
      }
    } else {
      int64_t vectors = up(s.beside, LANES) / LANES;
#pragma omp for schedule(static)
      for (int64_t i = 0; i < s.rows / s.beside * vectors; i++) {
        int64_t image = i / vectors, first = i % vectors * LANES, start = image * s.classes * s.beside + first;
        total -= vector_of_rows(std::min(LANES, s.beside - first), s.classes, s.beside, x.data + start, dx.data + start,
                                target.data + image * s.beside + first, weight.data, s.ignored, each);
      }
    }
    totals[thread()] = total;
  }
  double total = 0;
  for (double part : totals) total += part;
  *y.data = s.mean ? float(total / counted) : float(total);
}

}  // namespace softmax_cross_entropy
#endif
