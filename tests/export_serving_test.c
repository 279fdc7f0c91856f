/* Loads a SavedModel the way TF Serving does and draws one image.

   serving_test FOLDER SEED_INPUT TEMPERATURE_INPUT IMAGES_OUTPUT
   prints the image's bytes as decimal numbers.  The names are those of the
   graph's tensors, without ":0"; an output may end in ":INDEX". */

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
  if (argc != 5) return 2;
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(
      options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status);

  const int64_t one = 1;
  TF_Tensor* seed = TF_AllocateTensor(TF_INT64, &one, 1, sizeof(int64_t));
  TF_Tensor* temperature = TF_AllocateTensor(TF_FLOAT, &one, 1, sizeof(float));
  *(int64_t*)TF_TensorData(seed) = 5;
  *(float*)TF_TensorData(temperature) = 0.7f;

  TF_Output inputs[] = {find(graph, argv[2]), find(graph, argv[3])};
  TF_Tensor* values[] = {seed, temperature};
  TF_Output output = find(graph, argv[4]);
  TF_Tensor* images = NULL;
  TF_SessionRun(session, NULL, inputs, values, 2, &output, &images, 1, NULL, 0,
                NULL, status);
  check(status);

  const uint8_t* pixels = TF_TensorData(images);
  for (size_t i = 0; i < TF_TensorByteSize(images); i++)
    printf("%d ", pixels[i]);
  printf("\n");

  TF_DeleteTensor(images);
  TF_DeleteTensor(seed);
  TF_DeleteTensor(temperature);
  TF_CloseSession(session, status);
  check(status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
