// Runs the FP32 model of a bundle without FER-Edge, and compares its probabilities with golden ones.
//
//     run_bundle BUNDLE.fer GOLDEN
//
// GOLDEN/crops.bin holds faces as uint8 [N, H, W, C]: found, cut out, converted to the colour of the network and resized
// to its input. That is the last stage in whole pixels; from there on this program does all that a bundle asks for:
// scaling, network, temperature and prior. GOLDEN/probabilities.bin holds the float32 [N, K] that must come out.
// golden.py wrote both.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Values = std::vector<double>;

constexpr double kTolerance = 1e-4;  // of a probability; processors add in different orders

std::vector<char> read_file(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path.string() + " cannot be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

// Pixels [N, H, W, C] → input of the network [N, C, H, W]: (pixel / 255 - mean) / std for each channel.
std::vector<float> normalise(const std::vector<char>& pixels, const Json& spec) {
    const size_t channels = spec.at("channels");
    const size_t plane = spec.at("input_height").get<size_t>() * spec.at("input_width").get<size_t>();
    std::vector<float> input(pixels.size());
    for (size_t i = 0; i < pixels.size(); ++i) {
        const size_t channel = i % channels, pixel = i / channels % plane, face = i / channels / plane;
        const double mean = spec.at("mean")[channel], std = spec.at("std")[channel];
        const double value = static_cast<uint8_t>(pixels[i]) / 255.0;
        input[(face * channels + channel) * plane + pixel] = static_cast<float>((value - mean) / std);
    }
    return input;
}

// Logits [N, K] of the model in the folder of a bundle.
std::vector<float> run_model(const fs::path& model, std::vector<float> input, const Json& spec) {
    Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "run_bundle");
    Ort::Session session(env, model.c_str(), Ort::SessionOptions());
    const int64_t channels = spec.at("channels"), height = spec.at("input_height"), width = spec.at("input_width");
    const int64_t faces = static_cast<int64_t>(input.size()) / (channels * height * width);
    const std::vector<int64_t> shape = {faces, channels, height, width};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const auto batch = Ort::Value::CreateTensor<float>(memory, input.data(), input.size(), shape.data(), shape.size());
    Ort::AllocatorWithDefaultOptions allocator;
    const auto name = session.GetInputNameAllocated(0, allocator);
    const char* inputs[] = {name.get()};
    const char* outputs[] = {"logits"};  // which every model has; spec.outputs names the others
    auto results = session.Run(Ort::RunOptions(), inputs, &batch, 1, outputs, 1);
    const float* logits = results[0].GetTensorData<float>();
    return {logits, logits + results[0].GetTensorTypeAndShapeInfo().GetElementCount()};
}

// A named prior over the classes with frequencies pi: training, balanced or uniform.
Values named_prior(const std::string& name, const Values& pi) {
    Values q = pi;
    if (name == "balanced") {
        for (double& share : q) share = std::sqrt(share);
    } else if (name == "uniform") {
        std::fill(q.begin(), q.end(), 1.0);
    } else if (name != "training") {
        throw std::runtime_error("unknown prior " + name);
    }
    double sum = 0;
    for (double share : q) sum += share;
    for (double& share : q) share /= sum;
    return q;
}

// log(wanted prior) - log(prior that the logits imply), for each class; zeros where the two are the same or unknown.
Values prior_offset(const Json& manifest) {
    const Json& names = manifest.at("spec").at("class_names");
    Values offset(names.size(), 0.0);
    const Json frequencies = manifest.value("class_frequencies", Json());
    const Json implied = manifest.value("logit_prior", Json());
    if (frequencies.is_null() || implied.is_null()) return offset;
    Values pi, wanted;
    for (const auto& name : names) pi.push_back(frequencies.at(name.get<std::string>()));
    const Json chosen = manifest.value("default_prior", Json());
    if (chosen.is_object()) {
        for (const auto& name : names) wanted.push_back(chosen.at(name.get<std::string>()));
    } else {
        wanted = named_prior(chosen.is_null() ? "training" : chosen.get<std::string>(), pi);
    }
    const Values own = named_prior(implied, pi);
    for (size_t k = 0; k < offset.size(); ++k) offset[k] = std::log(wanted[k]) - std::log(own[k]);
    return offset;
}

// softmax(logits / T + offset), row by row; an offset of -infinity excludes a class.
Values probabilities_of(const std::vector<float>& logits, double temperature, const Values& offset) {
    const size_t classes = offset.size();
    Values result(logits.size());
    for (size_t row = 0; row < logits.size(); row += classes) {
        double largest = -INFINITY, sum = 0;
        for (size_t k = 0; k < classes; ++k) {
            result[row + k] = logits[row + k] / temperature + offset[k];
            largest = std::max(largest, result[row + k]);
        }
        for (size_t k = 0; k < classes; ++k) sum += result[row + k] = std::exp(result[row + k] - largest);
        for (size_t k = 0; k < classes; ++k) result[row + k] /= sum;
    }
    return result;
}

int run(const fs::path& bundle, const fs::path& golden) {
    const Json manifest = Json::parse(read_file(bundle / "manifest.json"));
    const int version = manifest.at("format_version");
    if (version != 1 && version != 2) throw std::runtime_error("unknown format version " + std::to_string(version));
    const Json& spec = manifest.at("spec");
    const std::vector<float> input = normalise(read_file(golden / "crops.bin"), spec);
    const std::vector<float> logits = run_model(bundle / "model.onnx", input, spec);
    const Values found = probabilities_of(logits, manifest.value("temperature", 1.0), prior_offset(manifest));

    const std::vector<char> bytes = read_file(golden / "probabilities.bin");
    if (bytes.size() != found.size() * sizeof(float)) throw std::runtime_error("crops and probabilities do not fit");
    std::vector<float> expected(found.size());
    std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(expected.data()));
    double worst = 0;
    const size_t classes = spec.at("class_names").size();
    for (size_t i = 0; i < found.size(); ++i) {
        const double difference = std::abs(found[i] - static_cast<double>(expected[i]));
        worst = difference <= worst ? worst : difference;  // NaN too
        if (i % classes != 0) continue;
        const auto best = std::max_element(&found[i], &found[i] + classes);
        const std::string label = spec.at("class_names")[static_cast<size_t>(best - &found[i])];
        std::printf("face %zu: %s %.4f\n", i / classes, label.c_str(), *best);
    }
    const bool same = worst <= kTolerance;
    std::printf("largest difference %.1e: %s\n", worst, same ? "the golden probabilities" : "not the golden probabilities");
    return same ? 0 : 1;
}

int main(int count, char** arguments) {
    if (count != 3) {
        std::fprintf(stderr, "usage: run_bundle BUNDLE.fer GOLDEN\n");
        return 2;
    }
    try {
        return run(arguments[1], arguments[2]);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
