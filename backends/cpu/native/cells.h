// The table of the cells.  To add a cell, write its header, and include and list it here.
#include "rnn.h"
#include "lstm.h"
#include "peephole.h"
#include "gru.h"
#include "gru_before.h"
#include "mingru.h"
#include "janet.h"
#include "mgu.h"
#include "options.h"
#include "rnn_options.h"
#include "lstm_options.h"
#include "gru_options.h"
#include "lstm_norm.h"
#include "gru_norm.h"
#include "gru_before_options.h"

// The place of a cell in this table is its number, by which the Python module refers to it.
static const N(Loops) * const N(cells)[] = {
    &N(rnn_tanh),
    &N(rnn_relu),
    &N(lstm),
    &N(gru),
    &N(gru_before),
    &N(input_gated),
    &N(peephole),
    &N(mingru),
    &N(janet),
    &N(mgu),
    &N(rnn_options),
    &N(lstm_options),
    &N(lstm_coupled),
    &N(lstm_peephole),
    &N(lstm_coupled_peephole),
    &N(lstm_p),
    &N(lstm_coupled_p),
    &N(lstm_peephole_p),
    &N(lstm_coupled_peephole_p),
    &N(gru_options),
    &N(gru_norm),
    &N(lstm_products),
    &N(lstm_products_p),
    &N(lstm_coupled_products),
    &N(lstm_coupled_products_p),
    &N(lstm_gates),
    &N(lstm_gates_p),
    &N(lstm_coupled_gates),
    &N(lstm_coupled_gates_p),
    &N(lstm_peephole_gates),
    &N(lstm_peephole_gates_p),
    &N(lstm_coupled_peephole_gates),
    &N(lstm_coupled_peephole_gates_p),
    &N(gru_before_options),
};

enum { N(n_cells) = sizeof N(cells) / sizeof *N(cells) };

static const Cell* N(cell)(int code) { return &N(cells)[code]->cell; }
