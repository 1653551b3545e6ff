// The sides of a problem whose states are eliminated, listed one after the other whatever their stage, and so are their numbers
// in the tables. A lane takes `at_once` of them, reads all that it needs of them, and then works on them together.

constexpr int at_once = 4;

// What a side bounds, in one number: where its row of G starts and on how many inputs from which it acts; or, without a row,
// one input from above or from below.
struct What {
  int row, first, count;
  float sign;  // of an input that is bounded itself; 0: a row

  DEVICE static int of(const Places &at, int k, int side, int i) {
    if (side >= 2 * nb) return (k * stride_G + at.row[i]) << 14 | (k * nu + at.first[i]) << 7 | at.count[i] << 2;
    return (k * nu + (side < nb ? side : side - nb)) << 7 | (side < nb ? 2 : 1);
  }

  DEVICE explicit What(int packed)
      : row(packed >> 14), first(packed >> 7 & 127), count(packed >> 2 & 31),
        sign(nb == 0 || (packed & 3) == 0 ? 0.0f : (packed & 3) == 1 ? 1.0f : -1.0f) {}

  // What it makes of the inputs at `by`, nu for each stage.
  DEVICE float apply(const float *by) const {
    float total = 0;
    if (m > 0) {
      const float *G = condensed().G + row, *inputs = by + (sign == 0 ? first : 0);
#pragma unroll
      for (int j = 0; j < most_columns; j += 2) {
        float2 g, v;
        if (pairs) {
          g = *(const float2 *)(G + j);
          v = *(const float2 *)(inputs + j);
        } else {
          bool second = j + 1 < most_columns && j + 1 < count;
          g = make_float2(G[j], second ? G[j + 1] : 0);
          v = make_float2(inputs[j], second ? inputs[j + 1] : 0);
        }
        if (same_columns || j < count) total += g.x * v.x + g.y * v.y;
      }
    }
    return sign == 0 ? total : sign * by[first];
  }
};

// A side's numbers.
struct Pair {
  float s, z, delta, off;  // off: how far s is from the distance to the bound
  float yields;            // 1 / (s + delta z)

  DEVICE void read(const Tables &table, int i) {
    s = table.s()[i];
    z = table.z()[i];
    delta = table.delta()[i];
    off = condensed().value[i] - condensed().limit[i] + s;
    yields = ratio(1, s + delta * z);
  }
};

// Lists the sides of a start, and their numbers in the order of the list; returns how many there are.
DEVICE int list_sides(const Places &at, const Problem &of, const Tables &table) {
  Condensed &it = condensed();
  int sides = 0;
  for (int i = lane(); i < 2 * N * ns; i += 32) push_of_sides()[i] = 0;
  for (int k = 0; k < N; k++)
#pragma unroll
    for (int i = 0; i < chunks; i++) {
      int side = lane() + 32 * i, from = k * ns + side;
      bool has = side < ns && table.delta()[side < ns ? from : 0] > 0;
      unsigned all = __ballot_sync(ALL, has);
      int to = sides + __popc(all & below(lane()));
      float s = has ? table.s()[from] : 0, z = has ? table.z()[from] : 0, delta = has ? table.delta()[from] : 0;
      float limit = has ? limit_of(of, k, side) : 0;
      float value = has ? value_of(table.point() + (k + 1) * n, table.at() + k * m, side) : 0;
      __syncwarp();  // the list is no longer than what it is made of
      if (has) {
        table.s()[to] = s;
        table.z()[to] = z;
        table.delta()[to] = delta;
        it.limit[to] = limit;
        it.value[to] = value;
        it.place[to] = from;
        it.what[to] = What::of(at, k, side, i);
      }
      sides += __popc(all);
    }
  __syncwarp();
  return sides;
}

// Puts forces and their last change back in the order of stages.
DEVICE void unlist_sides(const Tables &table, int sides) {
  float *push = push_of_sides(), *stiff = stiff_of_sides();
  __syncwarp();
  for (int i = lane(); i < sides; i += 32) {
    push[condensed().place[i]] = table.z()[i];
    stiff[condensed().place[i]] = table.change()[i];
  }
  __syncwarp();
  for (int i = lane(); i < N * ns; i += 32) {
    table.z()[i] = push[i];
    table.change()[i] = stiff[i];
  }
  __syncwarp();
}

// What the sides push with before there are any: nothing, or the multipliers of a warm start.
DEVICE void push_as_known(const Multipliers &known, bool any) {
  for (int i = lane(); i < N * ns; i += 32) {
    int k = i / ns, side = i - k * ns;
    push_of_sides()[i] = warm_started && any && side >= nb ? multiplier_of(known, k, side) : 0;
  }
  __syncwarp();
}
