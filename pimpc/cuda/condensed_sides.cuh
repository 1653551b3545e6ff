// The sides of a problem whose states are eliminated, listed one after the other whatever their stage, and so are their numbers
// in the tables. A lane takes `at_once` of them, reads all that it needs of them, and then works on them together.

constexpr int at_once = 4;

// What a side bounds: where its row of G starts and on how many inputs from which it acts; or, without a row, one input from
// above or from below.
struct What {
  int row, first, count;
  float sign;  // of an input that is bounded itself; 0: a row

  // By k ns + side.
  DEVICE explicit What(int place) {
    int k = place / ns, side = place - k * ns, r = side - 2 * nb, start = 0, column = 0;
    bool upper = side >= nb;
    sign = nb == 0 || r >= 0 ? 0.0f : upper ? 1.0f : -1.0f;
    row = r * nu;
    first = r >= 0 ? 0 : upper ? side - nb : side;
    count = nu;
#pragma unroll
    for (int b = 0; b < blocks; b++) {
      if (r >= start) {
        row = (r - start) * nu + column;
        first = column;
        count = block_columns[b];
      }
      start += block_rows[b];
      column += block_columns[b];
    }
    row = k * stride_G + (r >= 0 ? row : 0);
    first += k * nu;
  }

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
  float s, z, delta, excess;
  float off;     // how far s is from the distance to the bound
  float yields;  // 1 / (s + delta z)

  DEVICE void read(const Tables &table, int i) {
    s = table.s()[i];
    z = table.z()[i];
    delta = table.delta()[i];
    excess = excess_of_sides()[i];
    off = excess + s;
    yields = ratio(1, s + delta * z);
  }
};

// Lists the sides of a start, and their numbers in the order of the list; returns how many there are.
DEVICE int list_sides(const Problem &of, const Tables &table) {
  int sides = 0;
  for (int i = lane(); i < all_sides; i += 32) push_of_sides()[i] = stiff_of_sides()[i] = 0;
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
        excess_of_sides()[to] = value - limit;
        place_of_sides()[to] = from;
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
    push[place_of_sides()[i]] = table.z()[i];
    stiff[place_of_sides()[i]] = table.change()[i];
  }
  __syncwarp();
  for (int i = lane(); i < all_sides; i += 32) {
    table.z()[i] = push[i];
    table.change()[i] = stiff[i];
  }
  __syncwarp();
}

// What the sides push with before there are any: nothing, or the multipliers of a warm start.
DEVICE void push_as_known(const Multipliers &known, bool any) {
  for (int i = lane(); i < all_sides; i += 32) {
    int k = i / ns, side = i - k * ns;
    push_of_sides()[i] = warm_started && any && side >= nb ? multiplier_of(known, k, side) : 0;
  }
  __syncwarp();
}
