/* One step of TM-SGD in a single pass over memory: every weight, gradient and displacement is read once and
 * written at most once (24 bytes of float32 for each parameter after the switch).
 *
 * The operations and their roundings are those of the plain loop in kernels.py, so in float32 and float64 the
 * results are the same bits wherever the processor has a fused multiply-add, as PyTorch's kernels use it.
 * bfloat16 is computed in float32 and rounded once when stored.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

enum { PLAIN = 0, START = 1, HISTORY = 2 };
enum { FLOAT32 = 0, FLOAT64 = 1, BFLOAT16 = 2 };
enum { BLOCK = 1024 }; /* elements; a block of all streams in float lies within a core's first cache */
enum { PARALLEL = 32768 }; /* elements of all tensors; below, waking a second thread costs more than it saves */

typedef struct {
    int64_t numel;
    void *param, *grad, *newest, *older, *momentum; /* unused ones are NULL */
} Tensor;

typedef struct {
    double lr, weight_decay, momentum; /* lr: learning rate */
    double alpha, beta, rate;          /* u+ = alpha u + beta u_-1 - rate d, where rate = gain * lr */
    int32_t phase, maximize, first;    /* first: the momentum buffer receives the direction unchanged */
} Rule;

#if defined(__FMA__) || defined(__aarch64__)
#define FMA_float(a, b, c) fmaf(a, b, c)
#define FMA_double(a, b, c) fma(a, b, c)
#else /* without the instruction, a library call for each element would be slower than the loop */
#define FMA_float(a, b, c) ((a) * (b) + (c))
#define FMA_double(a, b, c) ((a) * (b) + (c))
#endif

/* param += -lr d before the switch; displacements as well after it. Each loop is over at most BLOCK elements, so all
 * but the first touch of an element is served by the cache. */
#define DEFINE_STEP(T)                                                                                                 \
    static void direction_##T(int64_t n, T *restrict d, const T *restrict param, const T *restrict grad,               \
                              const Rule *rule) {                                                                      \
        const T decay = (T)rule->weight_decay, sign = rule->maximize ? (T)-1 : (T)1;                                   \
        for (int64_t i = 0; i < n; i++) d[i] = sign * grad[i];                                                         \
        if (decay != 0)                                                                                                \
            for (int64_t i = 0; i < n; i++) d[i] = FMA_##T(decay, param[i], d[i]);                                     \
    }                                                                                                                  \
                                                                                                                       \
    static void average_##T(int64_t n, T *restrict momentum, const T *restrict d, const Rule *rule) {                  \
        const T mu = (T)rule->momentum;                                                                                \
        if (rule->first)                                                                                               \
            for (int64_t i = 0; i < n; i++) momentum[i] = d[i];                                                        \
        else                                                                                                           \
            for (int64_t i = 0; i < n; i++) momentum[i] = mu * momentum[i] + d[i];                                     \
    }                                                                                                                  \
                                                                                                                       \
    static void update_##T(int64_t n, T *restrict param, const T *restrict d, T *restrict newest, T *restrict older,   \
                           const Rule *rule) {                                                                         \
        const T lr = (T)-rule->lr, alpha = (T)rule->alpha, beta = (T)rule->beta, rate = (T)-rule->rate;                \
        if (rule->phase == PLAIN) {                                                                                    \
            for (int64_t i = 0; i < n; i++) param[i] = FMA_##T(lr, d[i], param[i]);                                    \
        } else if (rule->phase == START) {                                                                             \
            for (int64_t i = 0; i < n; i++) {                                                                          \
                const T u = lr * d[i];                                                                                 \
                newest[i] = u;                                                                                         \
                param[i] = param[i] + u;                                                                               \
            }                                                                                                          \
        } else {                                                                                                       \
            for (int64_t i = 0; i < n; i++) {                                                                          \
                const T u = FMA_##T(rate, d[i], FMA_##T(alpha, newest[i], beta * older[i]));                           \
                older[i] = u;                                                                                          \
                param[i] = param[i] + u;                                                                               \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    static void block_##T(int64_t n, T *param, const T *grad, T *newest, T *older, T *momentum, const Rule *rule) {    \
        T buffer[BLOCK];                                                                                               \
        const T *d = grad;                                                                                             \
        if (rule->maximize || rule->weight_decay != 0) {                                                               \
            direction_##T(n, buffer, param, grad, rule);                                                               \
            d = buffer;                                                                                                \
        }                                                                                                              \
        if (momentum) {                                                                                                \
            average_##T(n, momentum, d, rule);                                                                         \
            d = momentum;                                                                                              \
        }                                                                                                              \
        update_##T(n, param, d, newest, older, rule);                                                                  \
    }

DEFINE_STEP(float)
DEFINE_STEP(double)

static void widen(int64_t n, float *to, const uint16_t *from) {
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(&to[i], &bits, 4);
    }
}

/* Round to nearest, ties to even, as PyTorch does; every NaN stays a NaN. */
static void narrow(int64_t n, uint16_t *to, const float *from) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &from[i], 4);
        const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        to[i] = (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : (uint16_t)rounded;
    }
}

static void block_bfloat16(int64_t n, uint16_t *param, const uint16_t *grad, uint16_t *newest, uint16_t *older,
                           uint16_t *momentum, const Rule *rule) {
    float p[BLOCK], g[BLOCK], u[BLOCK], before[BLOCK], v[BLOCK];
    widen(n, p, param);
    widen(n, g, grad);
    if (rule->phase == HISTORY) widen(n, u, newest), widen(n, before, older);
    if (momentum && !rule->first) widen(n, v, momentum);
    block_float(n, p, g, u, before, momentum ? v : 0, rule);
    narrow(n, param, p);
    if (rule->phase == START) narrow(n, newest, u);
    if (rule->phase == HISTORY) narrow(n, older, before);
    if (momentum) narrow(n, momentum, v);
}

#define AT(T, pointer) ((pointer) ? (T *)(pointer) + i : 0)
#define RUN(T, block)                                                                                                  \
    for (int64_t i = begin; i < end; i += BLOCK)                                                                       \
        block(end - i < BLOCK ? end - i : BLOCK, AT(T, t->param), AT(const T, t->grad), AT(T, t->newest),              \
              AT(T, t->older), AT(T, t->momentum), rule)

static void range(const Tensor *t, int64_t begin, int64_t end, int dtype, const Rule *rule) {
    if (dtype == FLOAT32)
        RUN(float, block_float);
    else if (dtype == FLOAT64)
        RUN(double, block_double);
    else
        RUN(uint16_t, block_bfloat16);
}

/* The elements of all tensors, laid end to end, that belong to one worker of several. */
static void share(const Tensor *tensors, int64_t count, int64_t total, int worker, int workers, int dtype,
                  const Rule *rule) {
    const int64_t blocks = (total + BLOCK - 1) / BLOCK;
    const int64_t from = blocks * worker / workers * BLOCK, to = blocks * (worker + 1) / workers * BLOCK;
    int64_t start = 0;
    for (int64_t k = 0; k < count && start < to; k++) {
        const int64_t begin = from > start ? from - start : 0;
        const int64_t end = to - start < tensors[k].numel ? to - start : tensors[k].numel;
        if (begin < end) range(&tensors[k], begin, end, dtype, rule);
        start += tensors[k].numel;
    }
}

void tmsgd_step(const Tensor *tensors, int64_t count, int dtype, const Rule *rule, int threads) {
    int64_t total = 0;
    for (int64_t k = 0; k < count; k++) total += tensors[k].numel;
    if (threads <= 1 || total < PARALLEL) {
        share(tensors, count, total, 0, 1, dtype, rule);
        return;
    }
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int worker = 0; worker < threads; worker++) share(tensors, count, total, worker, threads, dtype, rule);
}

int tmsgd_abi(void) { return (int)(sizeof(Tensor) * 1000 + sizeof(Rule)); }
