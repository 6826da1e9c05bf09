// What a model computes on a CPU besides its matrix products: causal attention with rotary positions, RMSNorm,
// silu(gate) * up, and the loss, each forward and backward. cpu_ops.py compiles this file at first use and calls what
// is at its end.
//
// Attention, softmax(q k' / sqrt(D)) v, is faster than torch's, because it
//   - computes the lower triangle only: of T x T scores half are of tokens that nobody sees,
//   - rotates queries and keys while they are copied to where the products want them,
//   - reads and writes the arrays as the projections left them, token after token, (N, H, D),
//   - adds the gradients of all query heads that share a key/value head on the spot.
//
// Names: N tokens of all rows; H query heads on Hkv key/value heads; D features a head. A segment is a run of tokens
// that see each other, a row or a document of a packed row. All work on a segment and a key/value head is done by one
// thread, and sums have one order: results do not depend on the number of threads.
//
// Forward, for BLOCK queries at a time against the T keys up to the last of them:
//
//     S = q k' / sqrt(D)                       scores, (BLOCK, T)
//     P = exp(S - max of the line)             0 for the keys behind the query
//     o = P v / sum of the line                and L = max + log(sum of the line) is kept for the backward pass
//
// Backward (Dao et al. 2022, arXiv 2205.14135, algorithm 4, with whole lines instead of tiles):
//
//     P  = exp(S - L)                          the probabilities once more
//     dv += P' do
//     dP = do v'
//     dS = P * (dP - sum of do * o)            the softmax' derivative
//     dq = dS k / sqrt(D)     dk += dS' q / sqrt(D)
//
// The norm, silu(gate) * up and the loss read memory once and write it once, where torch's operators do several times:
// what they read again, a line, is still in the cache.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// --- vectors of W floats: what one register of this processor holds ---

#if defined(__AVX512F__)
constexpr int W = 16;
constexpr int TILE_ROWS = 12;  // rows of a product that are computed together: 2 * 12 sums fit into 32 registers
#else
constexpr int W = 8;
constexpr int TILE_ROWS = 6;  // 2 * 6 sums fit into 16 registers
#endif

typedef float Floats __attribute__((vector_size(4 * W)));
typedef int32_t Integers __attribute__((vector_size(4 * W)));
typedef uint32_t Bits __attribute__((vector_size(4 * W)));
typedef uint16_t Halves __attribute__((vector_size(2 * W)));

inline Floats load(const float *from) {
    Floats x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float *to, Floats x) { std::memcpy(to, &x, sizeof x); }

// exp of each number, to 2 units in the last place: 2^n * exp(r) with x = n ln 2 + r and |r| <= ln 2 / 2.
inline Floats exp(Floats x) {
    const Floats lowest = Floats{} - 87.0f;  // exp(-87) = 1.6e-38; below it numbers have no full precision
    x = x < lowest ? lowest : x;  // NaN stays

    const Floats shift = Floats{} + 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer
    Floats n = (x * 1.44269504f + shift) - shift;
    Floats r = x - n * 0.693359375f;  // ln 2 in two parts, so that n * ln 2 loses no digits
    r = r - n * -2.12194440e-4f;

    // Taylor's series up to r^7 / 7!, whose next term is below 1e-8
    Floats y = r * (1.0f / 5040) + (1.0f / 720);
    y = y * r + (1.0f / 120);
    y = y * r + (1.0f / 24);
    y = y * r + (1.0f / 6);
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;

    // The bits of 2^n: n + 127 in the place of the exponent.
    Integers exponent = (__builtin_convertvector(n, Integers) + 127) << 23;
    Floats power;
    std::memcpy(&power, &exponent, sizeof power);
    return y * power;
}

// All lanes added: half of them to the other half, then a quarter to a quarter, and so on. One after the other each sum
// would wait for the one before.
inline float sum(Floats x) {
    float lanes[W];
    store(lanes, x);
#pragma GCC unroll 4
    for (int half = W / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

// The largest lane, found in the same way.
inline float largest(Floats x) {
    float lanes[W];
    store(lanes, x);
#pragma GCC unroll 4
    for (int half = W / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] = std::max(lanes[lane], lanes[lane + half]);
    return lanes[0];
}

// --- products of matrices ---

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A matrix whose element (i, k) is at data[i * row + k * column]: a transposed one has the two strides swapped.
struct Matrix {
    const float *data;
    int64_t row;
    int64_t column;
};

// ROWS lines of REGISTERS * W columns of c = a b, or of c += a b. b and c: line after line, `line` numbers apart.
template <int ROWS, int REGISTERS, bool ADD>
inline void product_tile(Matrix a, const float *b, int64_t b_line, float *c, int64_t c_line, int64_t inner) {
    Floats sums[ROWS][REGISTERS];
    for (int i = 0; i < ROWS; i++)
        for (int part = 0; part < REGISTERS; part++) sums[i][part] = ADD ? load(c + i * c_line + part * W) : Floats{};

    for (int64_t k = 0; k < inner; k++) {
        Floats b_parts[REGISTERS];
        for (int part = 0; part < REGISTERS; part++) b_parts[part] = load(b + k * b_line + part * W);
        const float *a_k = a.data + k * a.column;
#pragma GCC unroll 16
        for (int i = 0; i < ROWS; i++) {
            float factor = a_k[i * a.row];
            for (int part = 0; part < REGISTERS; part++) sums[i][part] += factor * b_parts[part];
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int part = 0; part < REGISTERS; part++) store(c + i * c_line + part * W, sums[i][part]);
}

template <int ROWS, bool ADD>
void product_rows(Matrix a, const float *b, int64_t b_line, float *c, int64_t c_line, int64_t columns, int64_t inner) {
    int64_t j = 0;
    for (; j + 2 * W <= columns; j += 2 * W) product_tile<ROWS, 2, ADD>(a, b + j, b_line, c + j, c_line, inner);
    if (j < columns) product_tile<ROWS, 1, ADD>(a, b + j, b_line, c + j, c_line, inner);
}

// As product_rows for the rows that are left, fewer than TILE_ROWS: the compiler makes one loop for each number.
template <int ROWS, bool ADD>
void product_rest(int64_t rows, Matrix a, const float *b, int64_t b_line, float *c, int64_t c_line, int64_t columns,
                  int64_t inner) {
    if constexpr (ROWS > 0) {
        if (rows == ROWS)
            product_rows<ROWS, ADD>(a, b, b_line, c, c_line, columns, inner);
        else
            product_rest<ROWS - 1, ADD>(rows, a, b, b_line, c, c_line, columns, inner);
    }
}

// c = a b, or c += a b: a (rows, inner), b (inner, columns), c (rows, columns); columns: a multiple of W.
template <bool ADD>
void product(Matrix a, const float *b, int64_t b_line, float *c, int64_t c_line, int64_t rows, int64_t columns,
             int64_t inner) {
    int64_t i = 0;
    for (; i + TILE_ROWS <= rows; i += TILE_ROWS) {
        Matrix part{a.data + i * a.row, a.row, a.column};
        product_rows<TILE_ROWS, ADD>(part, b, b_line, c + i * c_line, c_line, columns, inner);
    }
    Matrix part{a.data + i * a.row, a.row, a.column};
    product_rest<TILE_ROWS - 1, ADD>(rows - i, part, b, b_line, c + i * c_line, c_line, columns, inner);
}

// --- numbers as the arrays have them: float32, or bfloat16, which is the upper half of a float32 ---

struct BFloat16 {
    uint16_t bits;
};

inline float widen(float x) { return x; }

inline float widen(BFloat16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

inline void narrow(float x, float *to) { *to = x; }

// To the nearest, ties to even, as torch; NaN stays NaN.
inline void narrow(float x, BFloat16 *to) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);
    to->bits = x == x ? uint16_t(rounded >> 16) : uint16_t(0x7fc0);
}

// W bfloat16 in a register of floats, and back.
inline Floats load(const BFloat16 *from) {
    Halves bits;
    std::memcpy(&bits, from, sizeof bits);
    Integers wide = __builtin_convertvector(bits, Integers) << 16;
    Floats x;
    std::memcpy(&x, &wide, sizeof x);
    return x;
}

// As narrow, all lanes at once.
inline void store(BFloat16 *to, Floats x) {
    Bits bits;
    std::memcpy(&bits, &x, sizeof bits);
    Bits odd = (bits >> 16) & 1;
    Bits rounded = (bits + 0x7fff + odd) >> 16;
    Bits kept = x == x ? rounded : Bits{} + 0x7fc0;
    Halves upper = __builtin_convertvector(kept, Halves);
    std::memcpy(to, &upper, sizeof upper);
}

// n numbers in a register, at most W of them; the places behind them are 0.
template <typename Number>
inline Floats take(const Number *from, int64_t n) {
    if (n >= W) return load(from);
    Number some[W] = {};
    std::memcpy(some, from, n * sizeof(Number));
    return load(some);
}

// The first n numbers of a register, at most all W.
template <typename Number>
inline void put(Floats x, Number *to, int64_t n) {
    if (n >= W) return store(to, x);
    Number some[W];
    store(some, x);
    std::memcpy(to, some, n * sizeof(Number));
}

// --- the task ---

struct Task {
    int64_t H, Hkv, D;
    const float *cos, *sin;     // (table_rows, D)
    int64_t table_rows;         // token n has row n % table_rows
    const int64_t *segments;    // (n_segments + 1): where each begins in the N tokens, and N
    int64_t n_segments;
};

constexpr int64_t BLOCK = 48;  // queries at a time: a multiple of TILE_ROWS

// The queries of a block from line `i` on that are computed together, and what the last of them sees.
struct Tile {
    int64_t rows, keys, columns;  // columns: keys, rounded up to whole registers

    Tile(int64_t first, int64_t i, int64_t rows_of_block) {
        rows = std::min<int64_t>(TILE_ROWS, rows_of_block - i);
        keys = first + i + rows;
        columns = round_up(keys, W);
    }
};

// What a thread works with, for one segment of T tokens: heads as matrices of padded lines.
struct Room {
    int64_t T, Tp, D, Dp;             // Tp, Dp: rounded up, so that lines are whole registers
    std::vector<float> q, k, v;       // (T, Dp): rotated queries / sqrt(D), rotated keys, values
    std::vector<float> kt, vt;        // (D, Tp): keys, values turned
    std::vector<float> grad_o, grad_q, grad_k, grad_v;  // (T, Dp)
    std::vector<float> scores, grad_scores;             // (BLOCK, Tp)

    void fit(int64_t tokens, int64_t features, bool backward) {
        T = tokens;
        D = features;
        Tp = round_up(T, W);
        Dp = round_up(D, W);
        for (auto *each : {&q, &k, &v}) make(*each, T * Dp, D < Dp);
        make(kt, D * Tp, T % W != 0);
        make(scores, BLOCK * Tp, false);
        if (backward) {
            make(vt, D * Tp, T % W != 0);
            for (auto *each : {&grad_o, &grad_q}) make(*each, T * Dp, D < Dp);
            for (auto *each : {&grad_k, &grad_v}) make(*each, T * Dp, true);  // sums
            make(grad_scores, BLOCK * Tp, false);
        }
    }

    // Room for n numbers. zeros: where not all of them will be written.
    static void make(std::vector<float> &numbers, int64_t n, bool zeros) {
        if (zeros)
            numbers.assign(n, 0.0f);
        else
            numbers.resize(n);
    }
};

// Copy head `head` of the tokens from `begin` on, (N, heads, D), into lines of `to`, (T, Dp).
template <typename Number>
void copy_head(const Number *from, int64_t heads, int64_t head, int64_t begin, const Room &room, float *to) {
    for (int64_t t = 0; t < room.T; t++) {
        const Number *x = from + ((begin + t) * heads + head) * room.D;
        for (int64_t d = 0; d < room.D; d++) to[t * room.Dp + d] = widen(x[d]);
    }
}

template <typename Number>
void write_head(const float *from, int64_t heads, int64_t head, int64_t begin, const Room &room, Number *to) {
    for (int64_t t = 0; t < room.T; t++) {
        Number *y = to + ((begin + t) * heads + head) * room.D;
        for (int64_t d = 0; d < room.D; d++) narrow(from[t * room.Dp + d], y + d);
    }
}

// Turn each pair of features by its position (model.apply_rope), and multiply by `factor`. back: by minus the angle.
void rotate(float *x, const Task &task, int64_t begin, const Room &room, float factor, bool back) {
    int64_t half = room.D / 2;
    float direction = back ? -1.0f : 1.0f;
    int64_t table_row = begin % task.table_rows;
    for (int64_t t = 0; t < room.T; t++) {
        int64_t place = table_row * room.D;
        if (++table_row == task.table_rows) table_row = 0;
        const float *cos = task.cos + place, *sin = task.sin + place + half;  // the left half has -sin
        float *left = x + t * room.Dp, *right = left + half;
        for (int64_t d = 0; d < half; d++) {
            float l = left[d], r = right[d], c = cos[d] * factor, s = sin[d] * factor * direction;
            left[d] = l * c - r * s;
            right[d] = r * c + l * s;
        }
    }
}

// (T, Dp) to (D, Tp), W tokens at a time: what is written then lies side by side. Lines of a power of two would push each
// other out of the cache if a token's features were written one after the other.
void turn(const std::vector<float> &x, const Room &room, std::vector<float> &to) {
    for (int64_t first = 0; first < room.T; first += W) {
        int64_t end = std::min(first + W, room.T);
        for (int64_t d = 0; d < room.D; d++)
            for (int64_t t = first; t < end; t++) to[d * room.Tp + t] = x[t * room.Dp + d];
    }
}

// x where its lane is one of the first n, else `other`.
inline Floats first_lanes(Floats x, int64_t n, float other) {
    Integers lanes;
    for (int lane = 0; lane < W; lane++) lanes[lane] = lane;
    return lanes < int32_t(n) ? x : Floats{} + other;
}

// P of BLOCK queries from `first` on, without the division: exp(S - base of the line), and 0 for the keys behind the
// query. A product reads up to TILE_ROWS - 1 keys behind a query's own, those of the other queries of its tile: they lie
// in the query's last register or in the next one, which is cleared too. What is further behind is not read.
// base: given (the log-sum-exp of the forward pass), or found (the largest score), then its sums are written too.
void softmax_lines(float *scores, int64_t line, int64_t first, int64_t rows, float *base, float *sums) {
    static_assert(TILE_ROWS <= W && BLOCK % TILE_ROWS == 0);
    for (int64_t i = 0; i < rows; i++) {
        float *s = scores + i * line;
        int64_t seen = first + i + 1;
        int64_t last = (seen - 1) / W * W;  // where the last register begins that holds a key that is seen
        Floats tail = first_lanes(load(s + last), seen - last, -INFINITY);

        if (sums) {
            Floats most = tail;
            for (int64_t j = 0; j < last; j += W) {
                Floats x = load(s + j);
                most = x > most ? x : most;
            }
            base[i] = largest(most);
        }
        Floats from = Floats{} + base[i];
        Floats total = first_lanes(exp(tail - from), seen - last, 0);
        store(s + last, total);
        if (last + W < line) store(s + last + W, Floats{});
        for (int64_t j = 0; j < last; j += W) {
            Floats p = exp(load(s + j) - from);
            store(s + j, p);
            total += p;
        }
        if (sums) sums[i] = sum(total);
    }
}

// One query head; the keys and values that it reads are in the room.
template <typename Number>
void forward_head(const Task &task, int64_t begin, int64_t head, const Number *q, Number *o, float *logsumexp,
                  Room &room) {
    const int64_t T = room.T, Tp = room.Tp, Dp = room.Dp, D = room.D;
    copy_head(q, task.H, head, begin, room, room.q.data());
    rotate(room.q.data(), task, begin, room, 1 / std::sqrt(float(D)), false);

    std::vector<float> &out = room.k;  // (T, Dp): the keys are in kt
    float base[BLOCK], sums[BLOCK];
    for (int64_t first = 0; first < T; first += BLOCK) {
        int64_t rows = std::min(BLOCK, T - first);
        float *scores = room.scores.data(), *lines = out.data() + first * Dp;

        for (int64_t i = 0; i < rows; i += TILE_ROWS) {
            Tile tile(first, i, rows);
            Matrix queries{room.q.data() + (first + i) * Dp, Dp, 1};
            product<false>(queries, room.kt.data(), Tp, scores + i * Tp, Tp, tile.rows, tile.columns, D);
        }
        softmax_lines(scores, Tp, first, rows, base, sums);
        for (int64_t i = 0; i < rows; i += TILE_ROWS) {
            Tile tile(first, i, rows);
            Matrix p{scores + i * Tp, Tp, 1};
            product<false>(p, room.v.data(), Dp, lines + i * Dp, Dp, tile.rows, Dp, tile.keys);
        }

        for (int64_t i = 0; i < rows; i++) {
            float share = 1 / sums[i];
            for (int64_t d = 0; d < D; d++) lines[i * Dp + d] *= share;
            logsumexp[(begin + first + i) * task.H + head] = base[i] + std::log(sums[i]);
        }
    }
    write_head(out.data(), task.H, head, begin, room, o);
}

// `count` query heads from `first` on; all read the same key/value head.
template <typename Number>
void forward_group(const Task &task, int64_t segment, int64_t first, int64_t count, const Number *q, const Number *k,
                   const Number *v, Number *o, float *logsumexp, Room &room) {
    int64_t begin = task.segments[segment], T = task.segments[segment + 1] - begin;
    int64_t shared = first / (task.H / task.Hkv);  // their key/value head
    room.fit(T, task.D, false);

    copy_head(k, task.Hkv, shared, begin, room, room.k.data());
    copy_head(v, task.Hkv, shared, begin, room, room.v.data());
    rotate(room.k.data(), task, begin, room, 1, false);
    turn(room.k, room, room.kt);

    for (int64_t head = first; head < first + count; head++) forward_head(task, begin, head, q, o, logsumexp, room);
}

template <typename Number>
void backward_group(const Task &task, int64_t segment, int64_t shared, const Number *q, const Number *k,
                    const Number *v, const Number *o, const float *logsumexp, const Number *grad_o, Number *grad_q,
                    Number *grad_k, Number *grad_v, Room &room) {
    int64_t begin = task.segments[segment], T = task.segments[segment + 1] - begin;
    int64_t sharers = task.H / task.Hkv;  // query heads of this key/value head
    room.fit(T, task.D, true);
    const int64_t Tp = room.Tp, Dp = room.Dp, D = room.D;
    const float scale = 1 / std::sqrt(float(D));

    copy_head(k, task.Hkv, shared, begin, room, room.k.data());
    copy_head(v, task.Hkv, shared, begin, room, room.v.data());
    rotate(room.k.data(), task, begin, room, 1, false);
    turn(room.k, room, room.kt);
    turn(room.v, room, room.vt);

    float base[BLOCK], along[BLOCK];
    for (int64_t head = shared * sharers; head < (shared + 1) * sharers; head++) {
        copy_head(q, task.H, head, begin, room, room.q.data());
        rotate(room.q.data(), task, begin, room, scale, false);
        copy_head(grad_o, task.H, head, begin, room, room.grad_o.data());

        for (int64_t first = 0; first < T; first += BLOCK) {
            int64_t rows = std::min(BLOCK, T - first);
            int64_t keys = first + rows;
            float *p = room.scores.data(), *ds = room.grad_scores.data();
            const float *q_lines = room.q.data() + first * Dp, *do_lines = room.grad_o.data() + first * Dp;

            for (int64_t i = 0; i < rows; i++) {
                int64_t token = (begin + first + i) * task.H + head;
                base[i] = logsumexp[token];
                Floats products{};
                for (int64_t d = 0; d < D; d += W)
                    products += load(do_lines + i * Dp + d) * take(o + token * D + d, D - d);
                along[i] = sum(products);
            }

            // P and dP
            for (int64_t i = 0; i < rows; i += TILE_ROWS) {
                Tile tile(first, i, rows);
                Matrix queries{q_lines + i * Dp, Dp, 1}, grads{do_lines + i * Dp, Dp, 1};
                product<false>(queries, room.kt.data(), Tp, p + i * Tp, Tp, tile.rows, tile.columns, D);
                product<false>(grads, room.vt.data(), Tp, ds + i * Tp, Tp, tile.rows, tile.columns, D);
            }
            softmax_lines(p, Tp, first, rows, base, nullptr);

            // dS in the place of dP
            for (int64_t i = 0; i < rows; i++) {
                Floats away = Floats{} + along[i];
                float *line = ds + i * Tp;
                int64_t end = round_up(first + i + 1, W);
                for (int64_t j = 0; j < end; j += W) store(line + j, load(p + i * Tp + j) * (load(line + j) - away));
                if (end < Tp) store(line + end, Floats{});
            }

            for (int64_t i = 0; i < rows; i += TILE_ROWS) {
                Tile tile(first, i, rows);
                float *lines = room.grad_q.data() + (first + i) * Dp;
                product<false>(Matrix{ds + i * Tp, Tp, 1}, room.k.data(), Dp, lines, Dp, tile.rows, Dp, tile.keys);
            }

            // Keys j and those after it are seen by the queries from line j - first on.
            for (int64_t j = 0; j < keys; j += TILE_ROWS) {
                int64_t n = std::min<int64_t>(TILE_ROWS, keys - j);
                int64_t i = std::max<int64_t>(0, j - first);
                Matrix p_turned{p + i * Tp + j, 1, Tp}, ds_turned{ds + i * Tp + j, 1, Tp};
                product<true>(p_turned, do_lines + i * Dp, Dp, room.grad_v.data() + j * Dp, Dp, n, Dp, rows - i);
                product<true>(ds_turned, q_lines + i * Dp, Dp, room.grad_k.data() + j * Dp, Dp, n, Dp, rows - i);
            }
        }
        rotate(room.grad_q.data(), task, begin, room, scale, true);
        write_head(room.grad_q.data(), task.H, head, begin, room, grad_q);
    }
    rotate(room.grad_k.data(), task, begin, room, 1, true);
    write_head(room.grad_k.data(), task.Hkv, shared, begin, room, grad_k);
    write_head(room.grad_v.data(), task.Hkv, shared, begin, room, grad_v);
}

template <typename Number>
void forward(const Task &task, const void *q, const void *k, const void *v, void *o, float *logsumexp, int threads) {
    // Heads that share keys and values are done together, but where that leaves threads without work.
    int64_t sharers = task.H / task.Hkv, groups = task.n_segments * task.Hkv;
    int64_t together = groups >= 4 * threads ? sharers : 1;
#pragma omp parallel num_threads(threads)
    {
        static thread_local Room room;
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t segment = 0; segment < task.n_segments; segment++)
            for (int64_t first = 0; first < task.H; first += together)
                forward_group(task, segment, first, together, (const Number *)q, (const Number *)k, (const Number *)v,
                              (Number *)o, logsumexp, room);
    }
}

template <typename Number>
void backward(const Task &task, const void *q, const void *k, const void *v, const void *o, const float *logsumexp,
              const void *grad_o, void *grad_q, void *grad_k, void *grad_v, int threads) {
#pragma omp parallel num_threads(threads)
    {
        static thread_local Room room;
#pragma omp for collapse(2) schedule(dynamic)
        for (int64_t segment = 0; segment < task.n_segments; segment++)
            for (int64_t shared = 0; shared < task.Hkv; shared++)
                backward_group(task, segment, shared, (const Number *)q, (const Number *)k, (const Number *)v,
                               (const Number *)o, logsumexp, (const Number *)grad_o, (Number *)grad_q,
                               (Number *)grad_k, (Number *)grad_v, room);
    }
}

// --- what lies between the products of a block: RMSNorm, and silu(gate) * up ---

// 1 / (1 + exp(-x)), from exp(-|x|), which does not overflow.
inline Floats sigmoid(Floats x) {
    Floats e = exp(x > 0.0f ? -x : x);
    Floats part = x > 0.0f ? Floats{} + 1.0f : e;
    return part / (1.0f + e);
}

// out = silu(gate) * up with silu(x) = x sigmoid(x), for n numbers.
template <typename Number>
void gated(const Number *gate, const Number *up, Number *out, int64_t n, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < n; i += W) {
        Floats x = take(gate + i, n - i);
        put(x * sigmoid(x) * take(up + i, n - i), out + i, n - i);
    }
}

// d silu(x) / d x = s + x s (1 - s) with s = sigmoid(x).
template <typename Number>
void gated_backward(const Number *gate, const Number *up, const Number *grad, Number *grad_gate, Number *grad_up,
                    int64_t n, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t i = 0; i < n; i += W) {
        Floats x = take(gate + i, n - i), s = sigmoid(x), silu = x * s, from_above = take(grad + i, n - i);
        put(from_above * take(up + i, n - i) * (s + silu * (1.0f - s)), grad_gate + i, n - i);
        put(from_above * silu, grad_up + i, n - i);
    }
}

// out = x * scale * gain with scale = 1 / sqrt(mean of x^2 + eps), line after line; the scales are kept.
template <typename In, typename Out>
void normalise(const In *all_x, const float *gain, Out *all_out, float *scales, int64_t lines, int64_t width, float eps,
               int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t line = 0; line < lines; line++) {
        const In *x = all_x + line * width;
        Out *out = all_out + line * width;

        Floats squares{};
        for (int64_t i = 0; i < width; i += W) {
            Floats some = take(x + i, width - i);
            squares += some * some;
        }
        float scale = 1 / std::sqrt(sum(squares) / width + eps);
        scales[line] = scale;

        for (int64_t i = 0; i < width; i += W)
            put(take(x + i, width - i) * scale * take(gain + i, width - i), out + i, width - i);
    }
}

constexpr int64_t SHARES = 16;  // of the lines: the gain's gradient is summed in each, then over them, in this order

// With u = x scale: d u / d x = scale (1 - u u' / width), for a longer x gives the same u. So of the gradient of u what
// points along u is taken away, and the rest is scaled. grad_gain may be null.
template <typename In, typename Out>
void normalise_backward(const In *all_x, const float *gain, const float *scales, const Out *all_grad, In *all_grad_x,
                        float *grad_gain, int64_t lines, int64_t width, int threads) {
    int64_t padded = round_up(width, W), share = (lines + SHARES - 1) / SHARES;
    std::vector<float> sums(SHARES * padded, 0.0f);
#pragma omp parallel for num_threads(threads)
    for (int64_t part = 0; part < SHARES; part++) {
        float *total = sums.data() + part * padded;
        for (int64_t line = part * share; line < std::min(lines, (part + 1) * share); line++) {
            const In *x = all_x + line * width;
            const Out *grad = all_grad + line * width;
            In *grad_x = all_grad_x + line * width;
            float scale = scales[line];

            Floats along{};
            for (int64_t i = 0; i < width; i += W) {
                Floats u = take(x + i, width - i) * scale;
                Floats product = take(grad + i, width - i) * u;
                store(total + i, load(total + i) + product);
                along += product * take(gain + i, width - i);
            }
            float mean = sum(along) / width;

            for (int64_t i = 0; i < width; i += W) {
                Floats u = take(x + i, width - i) * scale;
                Floats of_u = take(grad + i, width - i) * take(gain + i, width - i);
                put((of_u - u * mean) * scale, grad_x + i, width - i);
            }
        }
    }
    if (grad_gain)
        for (int64_t i = 0; i < width; i++) {
            grad_gain[i] = 0;
            for (int64_t part = 0; part < SHARES; part++) grad_gain[i] += sums[part * padded + i];
        }
}

// --- the loss: how likely the logits find the token that follows ---

// As take, with -inf behind the n numbers: it is never the largest, and its exponential is 0.
template <typename Number>
inline Floats take_logits(const Number *from, int64_t n) {
    if (n >= W) return load(from);
    float some[W];
    for (int lane = 0; lane < W; lane++) some[lane] = lane < n ? widen(from[lane]) : -INFINITY;
    return load(some);
}

// exp of numbers below the largest, 0 at most. Where `exp` above has its lowest result, 1.6e-38, this has 0.
inline Floats exp_below(Floats x) { return x < -87.0f ? Floats{} : exp(x); }

// So many are added in float32, in W lanes, and the sums of pieces in double. In one piece 200,000 equal numbers would
// be rounded the same way 12,500 times.
constexpr int64_t PIECE = 64 * W;

// log p[target] of each line of V logits x, with p = exp(x - m) / sum of exp(x - m) and their largest m. Its gradient
// is written to `grads`, which may be the logits or null: d(-log p[target]) / d x = p - (1 at the target, 0 elsewhere).
template <typename Number>
void softmax_loss(const Number *all_logits, const int64_t *targets, float *logprobs, Number *all_grads, int64_t lines,
                  int64_t V, int threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t line = 0; line < lines; line++) {
        const Number *logits = all_logits + line * V;
        float at_target = widen(logits[targets[line]]);

        Floats highest = Floats{} - INFINITY;
        for (int64_t i = 0; i < V; i += W) {
            Floats x = take_logits(logits + i, V - i);
            highest = x > highest ? x : highest;
        }
        float most = largest(highest);

        double total = 0;
        for (int64_t piece = 0; piece < V; piece += PIECE) {
            int64_t end = std::min(piece + PIECE, V);
            Floats some{};
            for (int64_t i = piece; i < end; i += W) some += exp_below(take_logits(logits + i, V - i) - most);
            total += sum(some);
        }
        logprobs[line] = float(double(at_target) - double(most) - std::log(total));

        if (all_grads) {
            Number *grads = all_grads + line * V;
            float share = float(1 / total);
            for (int64_t i = 0; i < V; i += W) {
                Floats p = exp_below(take_logits(logits + i, V - i) - most) * share;
                put(p, grads + i, V - i);
            }
            narrow(std::exp(at_target - most) * share - 1, grads + targets[line]);
        }
    }
}

}  // namespace

// --- what cpu_ops.py calls ---

// function(Number{}), of the type that an array has: float, or BFloat16 where `half` says so.
template <typename Function>
void with_format(bool half, Function function) {
    if (half)
        function(BFloat16{});
    else
        function(float{});
}

extern "C" {

// q, o, grad_q, grad_o: (N, H, D); k, v: (N, Hkv, D); logsumexp: (N, H)
void attention_forward(bool half, int64_t H, int64_t Hkv, int64_t D, int64_t table_rows, int64_t n_segments,
                       int64_t threads, const float *cos, const float *sin, const int64_t *segments, const void *q,
                       const void *k, const void *v, void *o, float *logsumexp) {
    Task task{H, Hkv, D, cos, sin, table_rows, segments, n_segments};
    with_format(half, [&](auto number) {
        forward<decltype(number)>(task, q, k, v, o, logsumexp, int(threads));
    });
}

void attention_backward(bool half, int64_t H, int64_t Hkv, int64_t D, int64_t table_rows, int64_t n_segments,
                        int64_t threads, const float *cos, const float *sin, const int64_t *segments, const void *q,
                        const void *k, const void *v, const void *o, const float *logsumexp, const void *grad_o,
                        void *grad_q, void *grad_k, void *grad_v) {
    Task task{H, Hkv, D, cos, sin, table_rows, segments, n_segments};
    with_format(half, [&](auto number) {
        backward<decltype(number)>(task, q, k, v, o, logsumexp, grad_o, grad_q, grad_k, grad_v, int(threads));
    });
}

// gate, up, out, grad, grad_gate, grad_up: n numbers
void gated_silu_forward(bool half, int64_t n, int64_t threads, const void *gate, const void *up, void *out) {
    with_format(half, [&](auto number) {
        using Number = decltype(number);
        gated((const Number *)gate, (const Number *)up, (Number *)out, n, int(threads));
    });
}

void gated_silu_backward(bool half, int64_t n, int64_t threads, const void *gate, const void *up, const void *grad,
                         void *grad_gate, void *grad_up) {
    with_format(half, [&](auto number) {
        using Number = decltype(number);
        gated_backward((const Number *)gate, (const Number *)up, (const Number *)grad, (Number *)grad_gate,
                       (Number *)grad_up, n, int(threads));
    });
}

// x, grad_x: (lines, width), in bfloat16 if half_in; out, grad: the same shape, in bfloat16 if half_out; scales: (lines)
void norm_forward(bool half_in, bool half_out, int64_t lines, int64_t width, float eps, int64_t threads, const void *x,
                  const float *gain, void *out, float *scales) {
    with_format(half_in, [&](auto in) {
        with_format(half_out, [&](auto out_number) {
            using In = decltype(in);
            using Out = decltype(out_number);
            normalise((const In *)x, gain, (Out *)out, scales, lines, width, eps, int(threads));
        });
    });
}

void norm_backward(bool half_in, bool half_out, int64_t lines, int64_t width, int64_t threads, const void *x,
                   const float *gain, const float *scales, const void *grad, void *grad_x, float *grad_gain) {
    with_format(half_in, [&](auto in) {
        with_format(half_out, [&](auto out) {
            using In = decltype(in);
            using Out = decltype(out);
            normalise_backward((const In *)x, gain, scales, (const Out *)grad, (In *)grad_x, grad_gain, lines, width,
                               int(threads));
        });
    });
}

// logits, grads: (lines, V), where grads may be logits or null; targets: from 0 to V - 1; logprobs: (lines)
void softmax_loss_and_gradient(bool half, int64_t lines, int64_t V, int64_t threads, const void *logits,
                               const int64_t *targets, float *logprobs, void *grads) {
    with_format(half, [&](auto number) {
        using Number = decltype(number);
        softmax_loss((const Number *)logits, targets, logprobs, (Number *)grads, lines, V, int(threads));
    });
}

}  // extern "C"
