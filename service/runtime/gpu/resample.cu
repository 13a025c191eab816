/* Antialiased resampling of a batch of RGB images on a GPU: bit for bit the pixels of _resample.c.
 *
 * One thread for each pixel of the result computes both passes. The first pass is rounded to 8 bits as if it had been
 * stored, so the pixels are the same; computing it again for each pixel costs a GPU less than storing it. */

#define PRECISION 22
#define HALF (1 << (PRECISION - 1))

struct Image {           /* as resampling.py packs it */
    const unsigned char *pixels; /* rows of 3 bytes a pixel */
    long long stride;            /* bytes from row to row */
    const int *x, *y;            /* the axes, as `_resample.axis` returns them */
    long long vertical_first;    /* which pass comes first */
    unsigned char *result;       /* (3, size, size) */
};

__device__ int to_byte(int sum) {
    sum >>= PRECISION;
    return sum < 0 ? 0 : sum > 255 ? 255 : sum;
}

extern "C" __global__ void resample(const Image *images, long long size) {
    int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    if (column >= size || row >= size) return;
    const Image image = images[blockIdx.z];
    const int *first_x = image.x + 1 + 2 * column, *first_y = image.y + 1 + 2 * row;
    const int *weight_x = image.x + 1 + 2 * size + (long long)column * image.x[0];
    const int *weight_y = image.y + 1 + 2 * size + (long long)row * image.y[0];
    const unsigned char *corner = image.pixels + first_y[0] * image.stride + 3LL * first_x[0];
    /* the outer loop sums what the inner one, the first pass, has rounded */
    long long inner_step = image.vertical_first ? image.stride : 3, outer_step = image.vertical_first ? 3 : image.stride;
    int inner_count = image.vertical_first ? first_y[1] : first_x[1];
    int outer_count = image.vertical_first ? first_x[1] : first_y[1];
    const int *inner_weight = image.vertical_first ? weight_y : weight_x;
    const int *outer_weight = image.vertical_first ? weight_x : weight_y;
    int red = HALF, green = HALF, blue = HALF;
    for (int outer = 0; outer < outer_count; outer++) {
        const unsigned char *pixel = corner + outer * outer_step;
        int r = HALF, g = HALF, b = HALF;
        for (int inner = 0; inner < inner_count; inner++, pixel += inner_step) {
            int weight = inner_weight[inner];
            r += weight * pixel[0];
            g += weight * pixel[1];
            b += weight * pixel[2];
        }
        int weight = outer_weight[outer];
        red += weight * to_byte(r);
        green += weight * to_byte(g);
        blue += weight * to_byte(b);
    }
    unsigned char *result = image.result + row * size + column;
    result[0] = to_byte(red);
    result[size * size] = to_byte(green);
    result[2 * size * size] = to_byte(blue);
}
