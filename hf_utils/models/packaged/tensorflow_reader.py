"""Reads a checkpoint of TensorFlow 1, and runs its graph once: a script for an environment that has TensorFlow.

    python tensorflow_reader.py CHECKPOINT INPUT INPUT_TENSOR OUTPUT RESULT

CHECKPOINT is the beginning of the names of its three files (.index, .data-00000-of-00001, .meta), INPUT an array of
NumPy for INPUT_TENSOR, a placeholder of the graph. RESULT is an .npz file of all variables by their names, and of
`output`: what the graph's operation OUTPUT makes of INPUT. The other placeholders that it depends on say whether the
net is being trained, and are given False.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def main(checkpoint: str, input_path: str, input_tensor: str, output: str, result: str) -> None:
    """Write `result`."""
    tf1 = tf.compat.v1
    tf1.disable_eager_execution()
    meta = tf1.MetaGraphDef.FromString(Path(f"{checkpoint}.meta").read_bytes())
    saver = meta.saver_def
    # The graph of the training has gradients that newer releases no longer accept.
    graph = tf1.graph_util.extract_sub_graph(meta.graph_def, [output, saver.restore_op_name])
    tf1.import_graph_def(graph, name="")
    feed = {f"{node.name}:0": False for node in graph.node if node.op == "Placeholder"}
    with tf1.Session() as session:
        session.run(saver.restore_op_name, {saver.filename_tensor_name: checkpoint})
        computed = session.run(f"{output}:0", feed | {input_tensor: np.load(input_path)})
    reader = tf.train.load_checkpoint(checkpoint)
    variables = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    np.savez(result, output=computed, **variables)


main(*sys.argv[1:])
