/* SPDX-License-Identifier: Apache-2.0

   A network in the form of a program for a microcontroller: setup() once, loop() for ever. On a
   desktop, main() calls them as the board's own code would.

   Needs: model.h and model.c, as `stateport emit c lstm.onnx -o .` writes them
   Run:   cc -std=c99 -O3 device_loop.c model.c -lm -o device_loop && ./device_loop */

#include <stdio.h>

#include "model.h"

static model_state state; /* one for each live sequence */
static float x[MODEL_X_SIZE];
static float y[MODEL_Y_SIZE];

/* Stands for a sensor: replace it by what reads yours, with the scaling of the training data. */
static float read_sensor(void)
{
    static unsigned seed = 1;
    seed = seed * 1103515245u + 12345u;
    return (float)((seed >> 16) & 0x7fffu) / 16384.0f - 1.0f;
}

static void setup(void)
{
    model_reset(&state);
}

static void loop(void)
{
    int i;
    for (i = 0; i < MODEL_X_SIZE; ++i) {
        x[i] = read_sensor();
    }
    model_step(&state, x, y);
    printf("%+.4f\n", (double)y[0]);
}

int main(void)
{
    int step;
    setup();
    for (step = 0; step < 10; ++step) {
        loop();
    }
    return 0;
}
