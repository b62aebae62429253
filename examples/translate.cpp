// Translate a picture with an engine of psp-export in ONNX Runtime.
//
//     g++ -std=c++17 -I/usr/include/onnxruntime examples/translate.cpp -lonnxruntime -o translate
//     ./translate psp.onnx image.ppm image_out.ppm
//
// Pictures are binary PPM files (P6, 8 bits); the input is 256x256. In the engine are normalisation and rounding, so
// bytes go in and bytes come out: uint8 RGB [1,256,256,3] -> uint8 RGB [1,H,W,3].

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

constexpr int64_t SIDE = 256;

std::vector<uint8_t> read_picture(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    int64_t width = 0, height = 0, most = 0;
    file >> kind >> width >> height >> most;
    file.get();  // the one space before the pixels
    if (kind != "P6" || width != SIDE || height != SIDE || most != 255)
        throw std::runtime_error(path + " is no binary PPM of 256x256 with 8 bits: convert it first");
    std::vector<uint8_t> pixels(SIDE * SIDE * 3);
    if (!file.read(reinterpret_cast<char*>(pixels.data()), pixels.size()))
        throw std::runtime_error(path + " ends before its last pixel");
    return pixels;
}

void write_picture(const std::string& path, const uint8_t* pixels, int64_t width, int64_t height) {
    std::ofstream file(path, std::ios::binary);
    file << "P6\n" << width << " " << height << "\n255\n";
    file.write(reinterpret_cast<const char*>(pixels), width * height * 3);
    if (!file) throw std::runtime_error("cannot write " + path);
}

// The shape [B,L,S] of the engine's second input, with B = 1.
std::array<int64_t, 3> style_shape(const Ort::Session& session) {
    auto type = session.GetInputTypeInfo(1);
    auto shape = type.GetTensorTypeAndShapeInfo().GetShape();
    return {1, shape.at(1), shape.at(2)};
}

template <typename T, size_t N>
Ort::Value tensor(std::vector<T>& values, const std::array<int64_t, N>& shape) {
    static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor<T>(memory, values.data(), values.size(), shape.data(), N);
}

void translate(const std::string& engine, const std::string& input, const std::string& output) {
    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR);
    Ort::Session session(environment, engine.c_str(), Ort::SessionOptions{});
    const auto styles = style_shape(session);

    auto image = read_picture(input);
    std::vector<float> style(styles[1] * styles[2]);  // W+ latents to mix in,
    std::vector<float> alpha(styles[1]);              // and how much of them: none
    std::array<Ort::Value, 3> given = {
        tensor(image, std::array<int64_t, 4>{1, SIDE, SIDE, 3}),
        tensor(style, styles),
        tensor(alpha, std::array<int64_t, 2>{1, styles[1]}),
    };
    const char* names[] = {"image", "style", "alpha"};
    const char* wanted[] = {"output"};
    auto made = session.Run(Ort::RunOptions{}, names, given.data(), given.size(), wanted, 1);
    const auto shape = made[0].GetTensorTypeAndShapeInfo().GetShape();  // [1,H,W,3]
    write_picture(output, made[0].GetTensorData<uint8_t>(), shape[2], shape[1]);
}

int main(int count, char** words) {
    if (count != 4) {
        std::cerr << "usage: " << words[0] << " ENGINE INPUT.ppm OUTPUT.ppm\n";
        return 2;
    }
    try {
        translate(words[1], words[2], words[3]);
    } catch (const std::exception& error) {
        std::cerr << error.what() << "\n";
        return 2;
    }
}
