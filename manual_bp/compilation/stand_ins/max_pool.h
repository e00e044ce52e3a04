// Max pooling on two axes of space, as the page max_pool derives it: as many windows of a row at once as a vector has
// floats, and dy added where the winners stood.  Where channels lie side by side, a vector is of channels.
// Behind blocks.h; a program may contain this text several times.
#ifndef MANUAL_BP_MAX_POOL
#define MANUAL_BP_MAX_POOL
#include <vector>

namespace max_pool {

using namespace blocks;

// One axis of space: its length, how many windows it has, and their numbers.
struct Axis {
  int64_t length, windows, taps, step, pad, gap;
};

// The first place in x that a window reads.
inline int64_t first(const Axis& a, int64_t window) {
  int64_t start = a.step * window - a.pad;
  return start >= 0 ? start : start + (a.gap - 1 - start) / a.gap * a.gap;
}

// n numbers that are `step` apart.  STEP: as a compiler knows it, or 0.  Of 1 and 2 it reads whole vectors.
template <int64_t STEP>
inline Vec apart(const float* x, int64_t step, int64_t n) {
  if constexpr (STEP == 1) return Vec::loadu(x);
  if constexpr (STEP == 2) return at::vec::deinterleave2(Vec::loadu(x), Vec::loadu(x + LANES)).first;
  float found[LANES] = {};
  for (int64_t i = 0; i < n; i++) found[i] = x[step * i];
  return Vec::loadu(found);
}

// What is larger than all before it, and a NaN, takes the place of `most`, and where it stands that of `won`.  By masks
// as AVX-512 has them: with at::vec's, which are vectors, planes took 1.1 to 1.2 times as long (a Sapphire Rapids).
inline void take(Vec& most, Vec& won, const Vec& number, const Vec& place) {
#if defined(CPU_CAPABILITY_AVX512)
  __mmask16 takes = _mm512_cmp_ps_mask(number, most, _CMP_GT_OQ) | _mm512_cmp_ps_mask(number, number, _CMP_UNORD_Q);
  most = _mm512_mask_mov_ps(most, takes, number);
  won = _mm512_mask_mov_ps(won, takes, place);
#else
  Vec takes = (number > most) | (number != number);
  most = Vec::blendv(most, number, takes);
  won = Vec::blendv(won, place, takes);
#endif
}

// The rows of x that a row of windows reads, with -inf on both sides, and the first place that each window reads.
// Places are whole numbers in float: below 2^24 they are exact.
struct Rows {
  int64_t width;
  std::vector<float> rows, starts;

  Rows(const Axis& down, const Axis& along)
      : width(std::max(along.step * (along.windows - 1) + along.gap * (along.taps - 1) + 2 * LANES,
                       along.pad + along.length)),
        rows(down.taps * width, NEVER),
        starts(up(along.windows, LANES)) {
    for (int64_t i = 0; i < along.windows; i++) starts[i] = first(along, i);
  }
};

template <int64_t STEP>
inline void plane(const Axis& down, const Axis& along, Rows& kept, float* y, int32_t* winner, const float* x) {
  for (int64_t row = 0; row < down.windows; row++, y += along.windows, winner += along.windows) {
    int64_t top = down.step * row - down.pad;
    auto outside = [&](int64_t k) { return top + down.gap * k < 0 || top + down.gap * k >= down.length; };
    for (int64_t k = 0; k < down.taps; k++) {
      if (outside(k)) continue;
      const float* from = x + (top + down.gap * k) * along.length;
      std::copy(from, from + along.length, kept.rows.data() + k * kept.width + along.pad);
    }
    Vec start(first(down, row) * along.length);
    for (int64_t i = 0; i < along.windows; i += LANES) {
      int64_t n = std::min(LANES, along.windows - i);
      Vec most(NEVER), won = start + Vec::loadu(kept.starts.data() + i);
      Vec each = Vec::arange<float>(along.step * i - along.pad, along.step);
      for (int64_t k = 0; k < down.taps; k++) {
        if (outside(k)) continue;
        const float* numbers = kept.rows.data() + k * kept.width + along.step * i;
        float place = (top + down.gap * k) * along.length;
        for (int64_t l = 0; l < along.taps; l++) {
          Vec number = apart<STEP>(numbers + along.gap * l, along.step, n);
          take(most, won, number, each + Vec(place + along.gap * l));
        }
      }
      most.store(y + i, n);
      at::vec::convert_to_int_of_same_size(won).store(winner + i, n);
    }
  }
}

// Whether all taps of all windows stand in x.
inline bool all_inside(const Axis& a) {
  return a.pad == 0 && a.step * (a.windows - 1) + a.gap * (a.taps - 1) < a.length;
}

// The first place that each window of a plane reads, and 0 behind the last.
inline std::vector<float> first_places(const Axis& down, const Axis& along) {
  std::vector<float> places(up(down.windows * along.windows, LANES));
  for (int64_t i = 0; i < down.windows * along.windows; i++)
    places[i] = first(down, i / along.windows) * along.length + first(along, i % along.windows);
  return places;
}

// A plane of which all taps stand in x: a vector is of windows of several rows, where one row would leave half of it
// empty.  2 x 2 windows of 8 x 8 took 0.34 of the time that they took row by row (a Sapphire Rapids).
inline void short_rows(const Axis& down, const Axis& along, const float* starts, float* y, int32_t* winner,
                       const float* x) {
  int64_t windows = down.windows * along.windows;
  for (int64_t i = 0; i < windows; i += LANES) {
    int64_t n = std::min(LANES, windows - i);
    Vec start = Vec::loadu(starts + i), most(NEVER), won = start;
    auto places = at::vec::convert_to_int_of_same_size(start);
    for (int64_t k = 0; k < down.taps; k++)
      for (int64_t l = 0; l < along.taps; l++) {
        int64_t apart = down.gap * k * along.length + along.gap * l;
        take(most, won, at::vec::gather<sizeof(float)>(x + apart, places), start + Vec(float(apart)));
      }
    most.store(y + i, n);
    at::vec::convert_to_int_of_same_size(won).store(winner + i, n);
  }
}

template <int threads>
inline void forward(int64_t planes, Axis down, Axis along, Tensor<float> y, Tensor<int32_t> winner,
                    Tensor<const float> x) {
  int64_t from = down.length * along.length, to = down.windows * along.windows;
  auto run = along.step == 1 ? plane<1> : along.step == 2 ? plane<2> : plane<0>;
  if (all_inside(down) && all_inside(along) && along.windows <= LANES / 2) {
    std::vector<float> starts = first_places(down, along);
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t i = 0; i < planes; i++)
      short_rows(down, along, starts.data(), y.data + i * to, winner.data + i * to, x.data + i * from);
    return;
  }
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    Rows kept(down, along);
#pragma omp for
    for (int64_t i = 0; i < planes; i++)
      run(down, along, kept, y.data + i * to, winner.data + i * to, x.data + i * from);
  }
}

template <int threads>
inline void backward(int64_t planes, int64_t from, int64_t to, Tensor<float> dx, Tensor<const int32_t> winner,
                     Tensor<const float> dy) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t i = 0; i < planes; i++) {
    float* sums = dx.data + i * from;
    std::fill(sums, sums + from, 0.f);
    for (int64_t l = i * to; l < (i + 1) * to; l++) sums[winner.data[l]] += dy.data[l];
  }
}

// Channels side by side: one window at a time, all its channels.

struct Images {
  int64_t batch, channels;
  Axis down, along;
  int64_t places() const { return down.length * along.length; }
  int64_t windows() const { return down.windows * along.windows; }
};

// act(place) for each tap of a window that stands in x.
template <typename Act>
inline void at_taps(const Images& s, int64_t row, int64_t column, Act act) {
  for (int64_t k = 0; k < s.down.taps; k++) {
    int64_t i = s.down.step * row - s.down.pad + s.down.gap * k;
    if (i < 0 || i >= s.down.length) continue;
    for (int64_t l = 0; l < s.along.taps; l++) {
      int64_t j = s.along.step * column - s.along.pad + s.along.gap * l;
      if (j >= 0 && j < s.along.length) act(i * s.along.length + j);
    }
  }
}

// act(row, column, address of the window's first channel among the windows, channel, how many), vector by vector.
template <typename Act>
inline void at_windows(const Images& s, int64_t image, Act act) {
  int64_t window = image * s.windows();
  for (int64_t row = 0; row < s.down.windows; row++)
    for (int64_t column = 0; column < s.along.windows; column++, window++)
      for (int64_t c = 0; c < s.channels; c += LANES)
        act(row, column, window * s.channels + c, c, std::min(LANES, s.channels - c));
}

template <int threads>
inline void forward_side_by_side(Images s, Tensor<float> y, Tensor<int32_t> winner, Tensor<const float> x) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t image = 0; image < s.batch; image++)
    at_windows(s, image, [&](int64_t row, int64_t column, int64_t to, int64_t c, int64_t n) {
      const float* from = x.data + image * s.places() * s.channels + c;
      Vec most(NEVER), won(float(first(s.down, row) * s.along.length + first(s.along, column)));
      at_taps(s, row, column, [&](int64_t place) {
        Vec number = Vec::loadu(from + place * s.channels, n);
        take(most, won, number, Vec(float(place)));
      });
      most.store(y.data + to, n);
      at::vec::convert_to_int_of_same_size(won).store(winner.data + to, n);
    });
}

template <int threads>
inline void backward_side_by_side(Images s, Tensor<float> dx, Tensor<const int32_t> winner, Tensor<const float> dy) {
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int64_t image = 0; image < s.batch; image++) {
    float* sums = dx.data + image * s.places() * s.channels;
    std::fill(sums, sums + s.places() * s.channels, 0.f);
    at_windows(s, image, [&](int64_t row, int64_t column, int64_t from, int64_t c, int64_t n) {
      Vec won = at::vec::convert_to_fp_of_same_size<float>(at::vec::Vectorized<int32_t>::loadu(winner.data + from, n));
      Vec d = Vec::loadu(dy.data + from, n);
      at_taps(s, row, column, [&](int64_t place) {
        float* sum = sums + place * s.channels + c;
        (Vec::loadu(sum, n) + Vec::blendv(Vec(0.f), d, won == Vec(float(place)))).store(sum, n);
      });
    });
  }
}

}  // namespace max_pool
#endif
