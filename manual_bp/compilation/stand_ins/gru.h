// Gated recurrent unit that resets after the product, forward and backward, as the page gru derives it.  Behind
// recurrence.h; a program may contain this text several times.
#ifndef MANUAL_BP_GRU
#define MANUAL_BP_GRU

namespace gru {

using namespace recurrence;

template <int threads>
inline void forward(const Sizes& s, Tensor<float> a, Tensor<float> h, Tensor<float> m, Tensor<const float> x,
                    Tensor<const float> h0, Tensor<const float> weight_ih, Tensor<const float> weight_hh,
                    Tensor<const float> bias_ih, Tensor<const float> bias_hh) {
  int64_t H = s.hidden, whole = up(H, LANES), parts = s.parts(threads);
  std::unique_ptr<float[]> packed(new float[3 * whole * (s.in + H)]);
  float *of_x = packed.get(), *of_h = of_x + 3 * whole * s.in;
  pack_gates<3>(H, s.in, weight_ih.data, of_x);
  pack_gates<3>(H, H, weight_hh.data, of_h);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t part = 0; part < parts; part++) {
    int64_t begin = s.batch * part / parts, end = s.batch * (part + 1) / parts;
    for (int64_t t = 0; t < s.time; t++) {
      int64_t of_step = t * s.batch;
      const float* h_before = t ? h.data + (of_step - s.batch) * H : h0.data;
      for (int64_t first = 0; first < H; first += LANES) {
        int64_t here = std::min(LANES, H - first);
        Vec bias[3], bias_m = Vec::loadu(bias_hh.data + 2 * H + first, here);
        for (int g = 0; g < 3; g++) {
          bias[g] = Vec::loadu(bias_ih.data + g * H + first, here);
          if (g < 2) bias[g] = bias[g] + Vec::loadu(bias_hh.data + g * H + first, here);
        }
        in_tiles<3>(begin, end, [&]<int M>(int64_t row) {
          Vec total[M][3];
          for (int i = 0; i < M; i++)
            for (int g = 0; g < 3; g++) {
              total[i][g] = bias[g];
              if (t + 1 < s.time) will_write(a.data + ((of_step + s.batch + row + i) * 3 + g) * H + first);
            }
          add_product(total, x.data + (of_step + row) * s.in, s.in, s.in, of_x + 3 * first * s.in);
          for (int i = 0; i < M; i++)
            for (int g = 0; g < 3; g++)
              total[i][g].store(a.data + ((of_step + row + i) * 3 + g) * H + first, here);
        });
        in_tiles<3>(begin, end, [&]<int M>(int64_t row) {
          Vec total[M][3];
          float* of_row = a.data + (of_step + row) * 3 * H + first;
          for (int i = 0; i < M; i++)
            for (int g = 0; g < 3; g++) total[i][g] = g < 2 ? Vec::loadu(of_row + (i * 3 + g) * H, here) : bias_m;
          add_product(total, h_before + row * H, H, H, of_h + 3 * first * H);
          for (int i = 0; i < M; i++) {
            Vec r, z, n, r_rest, z_rest, n_slope;
            int64_t at = (row + i) * H + first;
            float* to = of_row + i * 3 * H;
            sigmoid(total[i][0], r, r_rest);
            sigmoid(total[i][1], z, z_rest);
            Vec a_n = at::vec::fmadd(r, total[i][2], Vec::loadu(to + 2 * H, here));
            tanh(a_n, n, n_slope);
            total[i][0].store(to, here);
            total[i][1].store(to + H, here);
            a_n.store(to + 2 * H, here);
            total[i][2].store(m.data + of_step * H + at, here);
            at::vec::fmadd(z, Vec::loadu(h_before + at, here), z_rest * n).store(h.data + of_step * H + at, here);
          }
        });
      }
    }
  }
}

// What backward reads.
struct Given {
  const float *dy, *x, *h0, *a, *h, *m;
};

// da_n, da_r, da_z and dm of a step for the examples from `begin` on, side by side, so that x reads the first three and
// h the last.  dh of the step after it becomes what goes past the product.
inline void gates_of(const Sizes& s, const Given& given, int64_t t, int64_t begin, int64_t rows, float* dh, float* da,
                     int64_t line) {
  int64_t H = s.hidden, whole = up(H, LANES);
  const float* h_before = t ? given.h + (t - 1) * s.batch * H : given.h0;
  for (int64_t row = 0; row < rows; row++)
    for (int64_t first = 0; first < H; first += LANES) {
      int64_t here = std::min(LANES, H - first), of_batch = (begin + row) * H + first;
      int64_t at = t * s.batch * H + of_batch, of_a = (t * s.batch + begin + row) * 3 * H + first;
      float *to = da + row * line + first, *dh_ = dh + row * whole + first;
      if (t > 0) {
        for (int g = 0; g < 3; g++) will_read(given.a + of_a - s.batch * 3 * H + g * H);
        will_read(given.dy + at - s.batch * H);
        will_read(given.m + at - s.batch * H);
        will_read((t > 1 ? given.h + (t - 2) * s.batch * H : given.h0) + of_batch);
      }
      Vec r, z, n, r_rest, z_rest, n_slope;
      sigmoid(Vec::loadu(given.a + of_a, here), r, r_rest);
      sigmoid(Vec::loadu(given.a + of_a + H, here), z, z_rest);
      tanh(Vec::loadu(given.a + of_a + 2 * H, here), n, n_slope);
      Vec dh_t = Vec::loadu(dh_) + Vec::loadu(given.dy + at, here);
      Vec da_n = dh_t * (z_rest * n_slope);
      da_n.store(to, here);
      (da_n * (Vec::loadu(given.m + at, here) * (r * r_rest))).store(to + H, here);
      (dh_t * ((Vec::loadu(h_before + of_batch, here) - n) * (z * z_rest))).store(to + 2 * H, here);
      (da_n * r).store(to + 3 * H, here);
      (dh_t * z).store(dh_);
    }
}

template <int threads>
inline void backward(const Sizes& s, Tensor<float> dx, Tensor<float> dh0, Tensor<float> dweight_ih,
                     Tensor<float> dweight_hh, Tensor<float> dbias_ih, Tensor<float> dbias_hh, Tensor<const float> dy,
                     Tensor<const float> dh_n, Tensor<const float> x, Tensor<const float> h0,
                     Tensor<const float> weight_ih, Tensor<const float> weight_hh, Tensor<const float> a,
                     Tensor<const float> h, Tensor<const float> m) {
  int64_t H = s.hidden, gates = 3 * H, whole = up(H, LANES), whole_in = up(s.in, LANES), both = whole + whole_in;
  int64_t parts = s.parts(threads), line = up(4 * H, LANES) + LANES;  // not a power of 2: rows share no set
  Given given{dy.data, x.data, h0.data, a.data, h.data, m.data};
  std::unique_ptr<float[]> packed(new float[gates * both]);
  float *of_h = packed.get(), *of_x = of_h + gates * whole;
  pack_panels(gates, H, weight_hh.data, H, of_h, gates);
  pack_panels(H, s.in, weight_ih.data + 2 * H * s.in, s.in, of_x, gates);  // n first, as in da
  pack_panels(2 * H, s.in, weight_ih.data, s.in, of_x, gates, H);
  // Of each thread: sums over its examples, the state's cotangent, and of DEPTH rows da, what the weights read, dx.
  int64_t states = EXAMPLES * whole, floats = gates * both + line + states + DEPTH * (line + both + whole_in);
  int64_t shares = std::min<int64_t>(threads, parts);
  std::unique_ptr<float[]> memory[threads];
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
  for (int64_t share = 0; share < shares; share++) {
    memory[share].reset(new float[floats]());
    float *dweight = memory[share].get(), *sums = dweight + gates * both, *dh = sums + line, *da = dh + states;
    float *h_read = da + DEPTH * line, *x_read = h_read + DEPTH * whole, *dx_rows = x_read + DEPTH * whole_in;
    for (int64_t part = parts * share / shares; part < parts * (share + 1) / shares; part++) {
      int64_t begin = s.batch * part / parts, rows = s.batch * (part + 1) / parts - begin, steps = DEPTH / rows;
      for (int64_t r = 0; r < rows; r++) std::copy_n(dh_n.data + (begin + r) * H, H, dh + r * whole);
      // So many steps that products over them are deep, and so few that they stay in the caches.
      for (int64_t after = s.time; after > 0; after -= steps) {
        int64_t before = std::max<int64_t>(after - steps, 0), count = (after - before) * rows;
        for (int64_t t = after - 1; t >= before; t--) {
          int64_t n = (t - before) * rows, at = t * s.batch + begin;
          gates_of(s, given, t, begin, rows, dh, da + n * line, line);
          through(rows, gates, H, da + n * line + H, line, of_h, dh, whole, true);
          pack_panels(rows, H, t ? h.data + (at - s.batch) * H : h0.data + begin * H, H, h_read, count, n);
          pack_panels(rows, s.in, x.data + at * s.in, s.in, x_read, count, n);
        }
        through(count, gates, s.in, da, line, of_x, dx_rows, whole_in);
        for (int64_t n = 0; n < count; n++) {
          int64_t row = (before + n / rows) * s.batch + begin + n % rows;
          std::copy_n(dx_rows + n * whole_in, s.in, dx.data + row * s.in);
        }
        add_weight(count, gates, H, da + H, line, h_read, dweight, both);
        add_weight(count, gates, s.in, da, line, x_read, dweight + whole, both);
        for (int64_t k = 0; k < 4 * H; k += LANES) {
          Vec total = Vec::loadu(sums + k);
          for (int64_t n = 0; n < count; n++) total = total + Vec::loadu(da + n * line + k);
          total.store(sums + k);
        }
      }
      for (int64_t r = 0; r < rows; r++) std::copy_n(dh + r * whole, H, dh0.data + (begin + r) * H);
    }
  }
  for (int64_t share = 0; share < shares; share++) {  // in their order, so that the bits are the same in every run
    const float *dweight = memory[share].get(), *sums = dweight + gates * both;
    auto add = [&](float* to, const float* from, int64_t n) {
      for (int64_t j = 0; j < n; j++) to[j] = share ? to[j] + from[j] : from[j];
    };
    for (int64_t k = 0; k < gates; k++) {
      int64_t of_x_row = k < 2 * H ? k + H : k - 2 * H;  // where in da x reads the gate
      add(dweight_hh.data + k * H, dweight + k * both, H);
      add(dweight_ih.data + k * s.in, dweight + of_x_row * both + whole, s.in);
      add(dbias_ih.data + k, sums + of_x_row, 1);
    }
    add(dbias_hh.data, sums + H, gates);
  }
}

}  // namespace gru
#endif
