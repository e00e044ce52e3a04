// Long short-term memory, forward and backward, as the page lstm derives it.  Behind recurrence.h; a program may contain
// this text several times.
#ifndef MANUAL_BP_LSTM
#define MANUAL_BP_LSTM

namespace lstm {

using namespace recurrence;

template <int threads>
inline void forward(const Sizes& s, Tensor<float> a, Tensor<float> c, Tensor<float> h, Tensor<const float> x,
                    Tensor<const float> h0, Tensor<const float> c0, Tensor<const float> weight_ih,
                    Tensor<const float> weight_hh, Tensor<const float> bias) {
  int64_t H = s.hidden, whole = up(H, LANES), parts = s.parts(threads);
  std::unique_ptr<float[]> packed(new float[4 * whole * (s.in + H)]);
  float *of_x = packed.get(), *of_h = of_x + 4 * whole * s.in;
  pack_gates<4>(H, s.in, weight_ih.data, of_x);
  pack_gates<4>(H, H, weight_hh.data, of_h);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t part = 0; part < parts; part++) {
    int64_t begin = s.batch * part / parts, end = s.batch * (part + 1) / parts;
    for (int64_t t = 0; t < s.time; t++) {
      int64_t of_step = t * s.batch;
      const float *c_before = t ? c.data + (of_step - s.batch) * H : c0.data;
      const float *h_before = t ? h.data + (of_step - s.batch) * H : h0.data;
      for (int64_t first = 0; first < H; first += LANES) {
        int64_t here = std::min(LANES, H - first);
        in_tiles<4>(begin, end, [&]<int M>(int64_t row) {
          Vec total[M][4];
          for (int m = 0; m < M; m++)
            for (int g = 0; g < 4; g++) {
              total[m][g] = Vec::loadu(bias.data + g * H + first, here);
              if (t + 1 < s.time) will_write(a.data + ((of_step + s.batch + row + m) * 4 + g) * H + first);
            }
          add_product(total, x.data + (of_step + row) * s.in, s.in, s.in, of_x + 4 * first * s.in);
          for (int m = 0; m < M; m++)
            for (int g = 0; g < 4; g++)
              total[m][g].store(a.data + ((of_step + row + m) * 4 + g) * H + first, here);
        });
        in_tiles<4>(begin, end, [&]<int M>(int64_t row) {
          Vec total[M][4];
          float* of_row = a.data + (of_step + row) * 4 * H + first;
          for (int m = 0; m < M; m++)
            for (int g = 0; g < 4; g++) total[m][g] = Vec::loadu(of_row + (m * 4 + g) * H, here);
          add_product(total, h_before + row * H, H, H, of_h + 4 * first * H);
          for (int m = 0; m < M; m++) {
            for (int g = 0; g < 4; g++) total[m][g].store(of_row + (m * 4 + g) * H, here);
            Vec i, f, g, o, tanh_c, unused;
            int64_t at = (row + m) * H + first;
            sigmoid(total[m][0], i, unused);
            sigmoid(total[m][1], f, unused);
            tanh(total[m][2], g, unused);
            sigmoid(total[m][3], o, unused);
            Vec c_t = at::vec::fmadd(f, Vec::loadu(c_before + at, here), i * g);
            tanh(c_t, tanh_c, unused);
            c_t.store(c.data + of_step * H + at, here);
            (o * tanh_c).store(h.data + of_step * H + at, here);
          }
        });
      }
    }
  }
}

// What backward reads.
struct Given {
  const float *dy, *x, *h0, *c0, *a, *c, *h;
};

// da_t of the examples from `begin` on, whose dh and dc of the step after it become dc_(t-1), and dh_t.
inline void gates_of(const Sizes& s, const Given& given, int64_t t, int64_t begin, int64_t rows, const float* dh,
                     float* dc, float* da, int64_t line) {
  int64_t H = s.hidden, whole = up(H, LANES);
  const float* c_before = t ? given.c + (t - 1) * s.batch * H : given.c0;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t first = 0; first < H; first += LANES) {
      int64_t here = std::min(LANES, H - first), of_batch = (begin + r) * H + first;
      int64_t at = t * s.batch * H + of_batch, of_a = (t * s.batch + begin + r) * 4 * H + first;
      float *to = da + r * line + first, *dc_ = dc + r * whole + first;
      if (t > 0) {
        for (int g = 0; g < 4; g++) will_read(given.a + of_a - s.batch * 4 * H + g * H);
        will_read(given.dy + at - s.batch * H);
        will_read((t > 1 ? given.c + (t - 2) * s.batch * H : given.c0) + of_batch);
      }
      Vec i, f, g, o, tanh_c, i_rest, f_rest, g_slope, o_rest, c_slope;
      sigmoid(Vec::loadu(given.a + of_a, here), i, i_rest);
      sigmoid(Vec::loadu(given.a + of_a + H, here), f, f_rest);
      tanh(Vec::loadu(given.a + of_a + 2 * H, here), g, g_slope);
      sigmoid(Vec::loadu(given.a + of_a + 3 * H, here), o, o_rest);
      tanh(Vec::loadu(given.c + at, here), tanh_c, c_slope);
      Vec dh_t = Vec::loadu(dh + r * whole + first) + Vec::loadu(given.dy + at, here);
      Vec dc_t = at::vec::fmadd(dh_t, o * c_slope, Vec::loadu(dc_));
      (dc_t * (g * (i * i_rest))).store(to, here);
      (dc_t * (Vec::loadu(c_before + of_batch, here) * (f * f_rest))).store(to + H, here);
      (dc_t * (i * g_slope)).store(to + 2 * H, here);
      (dh_t * (tanh_c * (o * o_rest))).store(to + 3 * H, here);
      (dc_t * f).store(dc_);
    }
}

template <int threads>
inline void backward(const Sizes& s, Tensor<float> dx, Tensor<float> dh0, Tensor<float> dc0,
                     Tensor<float> dweight_ih, Tensor<float> dweight_hh, Tensor<float> dbias,
                     Tensor<const float> dy, Tensor<const float> dh_n, Tensor<const float> dc_n,
                     Tensor<const float> x, Tensor<const float> h0, Tensor<const float> c0,
                     Tensor<const float> weight_ih, Tensor<const float> weight_hh, Tensor<const float> a,
                     Tensor<const float> c, Tensor<const float> h) {
  int64_t H = s.hidden, gates = 4 * H, whole = up(H, LANES), whole_in = up(s.in, LANES), both = whole + whole_in;
  int64_t parts = s.parts(threads), line = up(gates, LANES) + LANES;  // not a power of 2: rows share no set
  Given given{dy.data, x.data, h0.data, c0.data, a.data, c.data, h.data};
  std::unique_ptr<float[]> packed(new float[gates * both]);
  float *of_h = packed.get(), *of_x = of_h + gates * whole;
  pack_panels(gates, H, weight_hh.data, H, of_h, gates);
  pack_panels(gates, s.in, weight_ih.data, s.in, of_x, gates);
  // Of each thread: sums over its examples, the states' cotangents, and of DEPTH rows da, what the weights read, dx.
  int64_t states = EXAMPLES * whole, floats = gates * both + line + 2 * states + DEPTH * (line + both + whole_in);
  int64_t shares = std::min<int64_t>(threads, parts);
  std::unique_ptr<float[]> memory[threads];
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
  for (int64_t share = 0; share < shares; share++) {
    memory[share].reset(new float[floats]());
    float *dweight = memory[share].get(), *sums = dweight + gates * both, *dh = sums + line, *dc = dh + states;
    float *da = dc + states, *h_read = da + DEPTH * line, *x_read = h_read + DEPTH * whole;
    float* dx_rows = x_read + DEPTH * whole_in;
    for (int64_t part = parts * share / shares; part < parts * (share + 1) / shares; part++) {
      int64_t begin = s.batch * part / parts, rows = s.batch * (part + 1) / parts - begin, steps = DEPTH / rows;
      for (int64_t r = 0; r < rows; r++) {
        std::copy_n(dh_n.data + (begin + r) * H, H, dh + r * whole);
        std::copy_n(dc_n.data + (begin + r) * H, H, dc + r * whole);
      }
      // So many steps that products over them are deep, and so few that they stay in the caches.
      for (int64_t after = s.time; after > 0; after -= steps) {
        int64_t before = std::max<int64_t>(after - steps, 0), count = (after - before) * rows;
        for (int64_t t = after - 1; t >= before; t--) {
          int64_t n = (t - before) * rows, at = t * s.batch + begin;
          gates_of(s, given, t, begin, rows, dh, dc, da + n * line, line);
          through(rows, gates, H, da + n * line, line, of_h, dh, whole);
          pack_panels(rows, H, t ? h.data + (at - s.batch) * H : h0.data + begin * H, H, h_read, count, n);
          pack_panels(rows, s.in, x.data + at * s.in, s.in, x_read, count, n);
        }
        through(count, gates, s.in, da, line, of_x, dx_rows, whole_in);
        for (int64_t n = 0; n < count; n++) {
          int64_t row = (before + n / rows) * s.batch + begin + n % rows;
          std::copy_n(dx_rows + n * whole_in, s.in, dx.data + row * s.in);
        }
        add_weight(count, gates, H, da, line, h_read, dweight, both);
        add_weight(count, gates, s.in, da, line, x_read, dweight + whole, both);
        for (int64_t k = 0; k < gates; k += LANES) {
          Vec total = Vec::loadu(sums + k);
          for (int64_t n = 0; n < count; n++) total = total + Vec::loadu(da + n * line + k);
          total.store(sums + k);
        }
      }
      for (int64_t r = 0; r < rows; r++) {
        std::copy_n(dh + r * whole, H, dh0.data + (begin + r) * H);
        std::copy_n(dc + r * whole, H, dc0.data + (begin + r) * H);
      }
    }
  }
  for (int64_t share = 0; share < shares; share++) {  // in their order, so that the bits are the same in every run
    const float *dweight = memory[share].get(), *sums = dweight + gates * both;
    auto add = [&](float* to, const float* from, int64_t n) {
      for (int64_t j = 0; j < n; j++) to[j] = share ? to[j] + from[j] : from[j];
    };
    for (int64_t k = 0; k < gates; k++) {
      add(dweight_hh.data + k * H, dweight + k * both, H);
      add(dweight_ih.data + k * s.in, dweight + k * both + whole, s.in);
    }
    add(dbias.data, sums, gates);
  }
}

}  // namespace lstm
#endif
