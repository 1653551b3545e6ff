// What is launched has a block, of one warp, for each problem.

#define PROBLEM_ARGUMENTS                                                                                             \
  const float *A, const float *B, const float *e, const float *x0, const float *u_prev, const float *x_ref,           \
      const float *u_ref, const float *Q, const float *R, const float *S, const float *G, const float *h,             \
      const float *u_min, const float *u_max, const float *x_min, const float *x_max, const float *give_x
#define PROBLEM_OF_BLOCK                                                                                              \
  Problem {                                                                                                           \
    A + own(shared_A, N *nx *nx), B + own(shared_B, N *nx *nu), e + own(shared_e, N *nx), x0 + own(shared_x0, nx),    \
        u_prev + own(shared_u_prev, nu), x_ref + own(shared_x_ref, N *nx), u_ref + own(shared_u_ref, N *nu),          \
        Q + own(shared_Q, N *nx), R + own(shared_R, N *nu), S + own(shared_S, N *nu),                                 \
        G + own(shared_G, N *lines *nu), h + own(shared_h, N *m), u_min + own(shared_u_min, N *nu),                   \
        u_max + own(shared_u_max, N *nu), x_min + own(shared_x_min, N *nx), x_max + own(shared_x_max, N *nx),         \
        give_x + own(shared_give_x, N *nx)                                                                            \
  }

// Where the numbers of this block's problem start; all problems may share one set.
DEVICE long long own(bool shared, int size) { return shared ? 0 : (long long)blockIdx.x * size; }

// The tables that do not fit on the chip are in `scratch`.
DEVICE Tables tables_of_block(float *scratch) {
  if (!condenses) T_here[room_T - 32 + lane()] = 0;
  return {scratch + own(false, condenses ? packed_H : table_rest + (moved_T > 0 ? table_T : 0))};
}
