/* Loads a SavedModel the way TF Serving does and draws images.

   serving_test FOLDER SEED_INPUT TEMPERATURE_INPUT IMAGES_OUTPUT ROWS...
   draws, for every ROWS, a batch of the seeds 0 to ROWS - 1 at temperature 0.7
   and prints its bytes as decimal numbers on a line.  The names are those of
   the graph's tensors, without ":0"; an output may end in ":INDEX". */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tensorflow/c/c_api.h"

static void check(TF_Status* status) {
  if (TF_GetCode(status) != TF_OK) {
    fprintf(stderr, "%s\n", TF_Message(status));
    exit(1);
  }
}

static TF_Output find(TF_Graph* graph, char* name) {
  char* colon = strchr(name, ':');
  int index = colon ? atoi(colon + 1) : 0;
  if (colon) *colon = 0;
  TF_Output output = {TF_GraphOperationByName(graph, name), index};
  if (!output.oper) {
    fprintf(stderr, "no operation %s\n", name);
    exit(1);
  }
  return output;
}

int main(int argc, char** argv) {
  if (argc < 6) return 2;
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(
      options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status);

  TF_Output inputs[] = {find(graph, argv[2]), find(graph, argv[3])};
  TF_Output output = find(graph, argv[4]);
  int64_t shape[2];
  TF_GraphGetTensorShape(graph, inputs[1], shape, 2, status);
  check(status);
  const int64_t groups = shape[1];
  for (int i = 5; i < argc; i++) {
    const int64_t rows = atoll(argv[i]);
    TF_Tensor* seed =
        TF_AllocateTensor(TF_INT64, &rows, 1, rows * sizeof(int64_t));
    shape[0] = rows;
    TF_Tensor* temperature = TF_AllocateTensor(
        TF_FLOAT, shape, 2, rows * groups * sizeof(float));
    for (int64_t row = 0; row < rows; row++)
      ((int64_t*)TF_TensorData(seed))[row] = row;
    for (int64_t i = 0; i < rows * groups; i++)
      ((float*)TF_TensorData(temperature))[i] = 0.7f;
    TF_Tensor* values[] = {seed, temperature};
    TF_Tensor* images = NULL;
    TF_SessionRun(session, NULL, inputs, values, 2, &output, &images, 1, NULL,
                  0, NULL, status);
    check(status);
    const uint8_t* pixels = TF_TensorData(images);
    for (size_t k = 0; k < TF_TensorByteSize(images); k++)
      printf("%d ", pixels[k]);
    printf("\n");
    TF_DeleteTensor(images);
    TF_DeleteTensor(seed);
    TF_DeleteTensor(temperature);
  }

  TF_CloseSession(session, status);
  check(status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
