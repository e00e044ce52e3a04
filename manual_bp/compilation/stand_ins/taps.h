// The cotangent of a convolution's weight, two axes of space, as the chapter convolution derives it,
//
//     weight[f, c, k] = sum over b and l of short[b, f, l] long[b, c, stride l + dilation k - padding],
//
// as products of matrices: of the positions l of some rows of windows, which stay in the caches, times what one row of
// taps meets there.  Channels lie side by side in both, or are laid so an image at a time, in the caches; and the taps of
// a row do too where they are not apart.
// Behind blocks.h; a program may contain this text several times.
#ifndef MANUAL_BP_TAPS
#define MANUAL_BP_TAPS

namespace taps {

using namespace blocks;
constexpr int64_t AT_ONCE = 6144;  // numbers of long and short that are read for each tile: half of a first cache

// One axis of space: the lengths of long and short, the taps, and how the window moves.
struct Axis {
  int64_t length, windows, taps, step, pad, gap;
  int64_t padded() const { return std::max(length + 2 * pad, step * (windows - 1) + gap * (taps - 1) + 1); }
};

struct Sizes {
  int64_t batch, channels, filters;
  Axis down, along;
  bool long_in_planes, short_in_planes;  // each channel by itself
  // The taps that one product takes, and in how many products a row of taps is taken.
  int64_t side_by_side() const { return along.gap == 1 ? along.taps : 1; }
  int64_t times() const { return along.taps / side_by_side(); }
};

// Floats that begin where a line of the cache does.
struct Line {
  std::unique_ptr<float[]> memory;
  float* data;
  explicit Line(int64_t n)
      : memory(new float[n + LANES]()),
        data(memory.get() + (-reinterpret_cast<intptr_t>(memory.get()) / int64_t(sizeof(float)) & (LANES - 1))) {}
};

// One image of planes, its channels side by side.
inline void side_by_side(int64_t channels, int64_t positions, const float* from, float* to) {
  for (int64_t c = 0; c < channels; c += LANES)
    for (int64_t l = 0; l < positions; l += LANES) {
      if (c + LANES <= channels && l + LANES <= positions) {
        at::vec::transpose_mxn<float, LANES, LANES>(from + c * positions + l, positions, to + l * channels + c, channels);
        continue;
      }
      for (int64_t j = l; j < std::min(l + LANES, positions); j++)
        for (int64_t i = c; i < std::min(c + LANES, channels); i++) to[j * channels + i] = from[i * positions + j];
    }
}

// One image in its padding, whose sides are 0 already.
inline void surround(const Sizes& s, const float* from, float* to) {
  int64_t row = s.along.length * s.channels;
  to += (s.down.pad * s.along.padded() + s.along.pad) * s.channels;
  for (int64_t i = 0; i < s.down.length; i++) std::copy(from + i * row, from + (i + 1) * row, to + i * s.along.padded() * s.channels);
}

// The sums of one image are added to `sums`: (rows of taps, times, filters, what a product takes), or where there are
// fewer channels than a vector has floats, (rows of taps, times, what a product takes, filters).
template <bool FEW>
inline void image(const Sizes& s, const float* x, const float* y, float* sums, int64_t width) {
  const Axis &down = s.down, &along = s.along;
  int64_t together = s.side_by_side() * s.channels, pixel = along.step * s.channels;
  int64_t line = down.step * along.padded() * s.channels, windows = along.windows * s.filters;
  int64_t rows = std::max<int64_t>(AT_ONCE / (windows + along.windows * pixel), 1);
  for (int64_t row = 0; row < down.windows; row += rows) {
    int64_t count = std::min(rows, down.windows - row);
    const float* short_ = y + row * windows;
    float* to = sums;
    for (int64_t k = 0; k < down.taps; k++)
      for (int64_t l = 0; l < s.times(); l++) {
        const float* long_ = x + row * line + (k * down.gap * along.padded() + l * along.gap) * s.channels;
        if constexpr (FEW) {
          product(together, width / LANES, long_, 1, pixel, short_, s.filters, to, width, {along.windows, count, line, windows}, true);
          to += together * width;
        } else {
          product(s.filters, width / LANES, short_, 1, s.filters, long_, pixel, to, width, {along.windows, count, windows, line}, true);
          to += s.filters * width;
        }
      }
  }
}

template <int threads>
inline void weight(Sizes s, Tensor<float> weight, Tensor<const float> long_, Tensor<const float> short_) {
  const Axis &down = s.down, &along = s.along;
  bool few = s.channels < LANES && s.filters % LANES == 0;
  int64_t together = s.side_by_side() * s.channels, products = down.taps * s.times();
  int64_t rows = few ? together : s.filters, width = up(few ? s.filters : together, LANES), all = products * rows * width;
  Line sums(threads * all);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    int64_t pixels = down.length * along.length, windows = down.windows * along.windows;
    Line x(down.padded() * along.padded() * s.channels + width);
    Line long_image(s.long_in_planes ? pixels * s.channels : 0), short_image(s.short_in_planes ? windows * s.filters : 0);
    auto laid = [](bool in_planes, int64_t channels, int64_t positions, const float* from, float* to) -> const float* {
      if (in_planes) side_by_side(channels, positions, from, to);
      return in_planes ? to : from;
    };
    float* own = sums.data + omp_get_thread_num() * all;
#pragma omp for schedule(static)
    for (int64_t b = 0; b < s.batch; b++) {
      surround(s, laid(s.long_in_planes, s.channels, pixels, long_.data + b * pixels * s.channels, long_image.data), x.data);
      const float* y =
          laid(s.short_in_planes, s.filters, windows, short_.data + b * windows * s.filters, short_image.data);
      few ? image<true>(s, x.data, y, own, width) : image<false>(s, x.data, y, own, width);
    }
  }
  for (int64_t thread = 1; thread < threads; thread++)
    for (int64_t i = 0; i < all; i++) sums.data[i] += sums.data[thread * all + i];
  for (int64_t f = 0; f < s.filters; f++)
    for (int64_t c = 0; c < s.channels; c++)
      for (int64_t k = 0; k < down.taps; k++)
        for (int64_t l = 0; l < along.taps; l++) {
          int64_t product = along.gap == 1 ? k : k * along.taps + l, column = along.gap == 1 ? l * s.channels + c : c;
          int64_t place = few ? column * width + f : f * width + column;
          *weight.data++ = sums.data[product * rows * width + place];
        }
}

}  // namespace taps
#endif
