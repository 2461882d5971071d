// Judges a picture with an exported flawscope model: C++17 and ONNX Runtime, nothing else.
//
//   predict MODEL.onnx PICTURE.ppm [--dump TENSOR.f32]
//
// The picture is a binary PPM (P6) of 8 bits, upright and without transparency. To read other formats, use
// the library that your program has. Everything else comes from the model's metadata. The input tensor is
// bit-identical to flawscope's; --dump writes it, [3, H, W] float32.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

// ------------------------------------------------------------------------------------------------- JSON

struct Json {
    enum { null, boolean, number, text, list, object } kind = null;
    bool truth = false;
    double value = 0;
    std::string string;
    std::vector<Json> items;
    std::map<std::string, Json> members;

    const Json& operator[](const std::string& key) const {
        auto found = members.find(key);
        if (found == members.end()) throw std::runtime_error("the manifest has no " + key);
        return found->second;
    }
    double real() const {
        if (kind != number) throw std::runtime_error("a number in the manifest is not one");
        return value;
    }
    int size() const {  // of a picture
        if (!(real() >= 1 && value <= 65536 && value == std::floor(value)))
            throw std::runtime_error("a picture size in the manifest is not between 1 and 65536");
        return static_cast<int>(value);
    }
    bool yes() const {
        if (kind != boolean) throw std::runtime_error("a value in the manifest is not true or false");
        return truth;
    }
};

class Parser {
public:
    explicit Parser(const std::string& from) : text(from) {}

    Json document() {
        Json found = any(0);
        if (next() != '\0' || at < text.size()) fail();
        return found;
    }

private:
    const std::string& text;
    std::size_t at = 0;

    [[noreturn]] void fail() const {
        throw std::runtime_error("the manifest is damaged at character " + std::to_string(at));
    }

    char next() {  // after white space; \0 at the end
        while (at < text.size() && std::string(" \t\r\n").find(text[at]) != std::string::npos) ++at;
        return at < text.size() ? text[at] : '\0';
    }

    bool take(char wanted) {
        if (next() != wanted || at == text.size()) return false;
        ++at;
        return true;
    }

    void word(const char* wanted) {
        for (; *wanted; ++wanted, ++at)
            if (at == text.size() || text[at] != *wanted) fail();
    }

    Json any(int depth) {
        if (depth > 100) fail();
        Json found;
        switch (next()) {
            case '{':
                found.kind = Json::object;
                ++at;
                if (take('}')) return found;
                do {
                    if (next() != '"') fail();
                    std::string key = string();
                    if (!take(':')) fail();
                    found.members[key] = any(depth + 1);
                } while (take(','));
                if (!take('}')) fail();
                return found;
            case '[':
                found.kind = Json::list;
                ++at;
                if (take(']')) return found;
                do found.items.push_back(any(depth + 1));
                while (take(','));
                if (!take(']')) fail();
                return found;
            case '"': found.kind = Json::text, found.string = string(); return found;
            case 't': found.kind = Json::boolean, found.truth = true, word("true"); return found;
            case 'f': found.kind = Json::boolean, word("false"); return found;
            case 'n': word("null"); return found;
            default: found.kind = Json::number, found.value = number(); return found;
        }
    }

    double number() {
        if (text[at] != '-' && (text[at] < '0' || text[at] > '9')) fail();  // not nan, not inf
        char* end = nullptr;
        double found = std::strtod(text.c_str() + at, &end);  // the program keeps the locale "C"
        at = static_cast<std::size_t>(end - text.c_str());
        if (!std::isfinite(found)) fail();
        return found;
    }

    std::string string() {
        std::string found;
        for (++at; at < text.size() && text[at] != '"'; ++at) {
            if (text[at] == '\\') {
                if (++at == text.size()) fail();
                found += '\\';  // kept as written: no key used here is escaped
            }
            found += text[at];
        }
        if (at++ >= text.size()) fail();
        return found;
    }
};

// ---------------------------------------------------------------------------------------------- pictures

struct Picture {
    int height = 0, width = 0;
    std::vector<std::uint8_t> pixels;  // [height, width, 3]
};

Picture read_ppm(const char* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(std::string("cannot read ") + path);
    auto number = [&] {
        int found = 0;
        while (file >> std::ws && file.peek() == '#')
            file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
        file >> found;
        return found;
    };
    std::array<char, 2> magic{};
    file.read(magic.data(), 2);
    Picture picture;
    picture.width = number();
    picture.height = number();
    int white = number();
    file.get();
    if (!file || magic != std::array<char, 2>{'P', '6'} || white != 255 || picture.width < 1 ||
        picture.height < 1 || std::int64_t{picture.width} * picture.height > (1 << 29))
        throw std::runtime_error(std::string(path) + " is not a binary PPM (P6) of 8 bits");
    picture.pixels.resize(std::size_t(3) * picture.height * picture.width);
    file.read(reinterpret_cast<char*>(picture.pixels.data()), std::streamsize(picture.pixels.size()));
    if (!file) throw std::runtime_error(std::string(path) + " is truncated");
    return picture;
}

// -------------------------------------------------------------------------------------------- resampling

// Pillow's antialiased bilinear filter in 8 bits, along one axis: a triangle as wide as the picture shrinks,
// weights in fixed point, each pass rounded to 8 bits.
constexpr int PRECISION = 32 - 8 - 2;

struct Weights {
    std::vector<int> first;                  // for every target pixel: its first source pixel
    std::vector<std::vector<std::int32_t>> of;  // its weights and those of the next pixels
};

Weights weights(int source, float begin, float end, int target) {
    const double scale = double(end - begin) / target, wide = std::max(scale, 1.0);
    Weights found;
    for (int k = 0; k < target; ++k) {
        const double centre = begin + (k + 0.5) * scale;
        const int from = std::max(0, int(centre - wide + 0.5));
        const int to = std::min(source, int(centre + wide + 0.5));
        std::vector<double> exact;
        double sum = 0;
        for (int i = from; i < to; ++i) {
            const double distance = std::abs((i - centre + 0.5) * (1.0 / wide));
            exact.push_back(distance < 1 ? 1 - distance : 0);
            sum += exact.back();
        }
        std::vector<std::int32_t> fixed;
        for (double weight : exact) {
            if (sum != 0) weight /= sum;
            fixed.push_back(std::int32_t(0.5 + weight * (1 << PRECISION)));
        }
        found.first.push_back(from);
        found.of.push_back(std::move(fixed));
    }
    return found;
}

std::uint8_t rounded(std::int32_t sum) {
    return std::uint8_t(std::clamp(sum >> PRECISION, 0, 255));
}

// Resizes the part (y0, x0, y1, x1) of a picture, as Image.resize(..., BILINEAR, box=...) does.
// Always the width first, as flawscope does: Pillow 13 would take the height first in tall pictures.
Picture resize(const Picture& picture, const std::array<double, 4>& part, int height, int width) {
    const float y0 = float(part[0]), x0 = float(part[1]), y1 = float(part[2]), x1 = float(part[3]);
    Picture across{picture.height, width, {}};
    if (width == picture.width && x0 == 0 && x1 == float(width)) {
        across.pixels = picture.pixels;
    } else {
        across.pixels.resize(std::size_t(3) * picture.height * width);
        const Weights columns = weights(picture.width, x0, x1, width);
        std::uint8_t* out = across.pixels.data();
        for (int y = 0; y < picture.height; ++y)
            for (int x = 0; x < width; ++x)
                for (int c = 0; c < 3; ++c) {
                    const std::size_t first = std::size_t(y) * picture.width + columns.first[x];
                    const auto* in = &picture.pixels[3 * first + c];
                    std::int32_t sum = 1 << (PRECISION - 1);
                    for (std::int32_t weight : columns.of[x]) sum += weight * *in, in += 3;
                    *out++ = rounded(sum);
                }
    }
    if (height == picture.height && y0 == 0 && y1 == float(height)) return across;
    Picture found{height, width, std::vector<std::uint8_t>(std::size_t(3) * height * width)};
    const Weights rows = weights(picture.height, y0, y1, height);
    const std::size_t row = std::size_t(3) * width;
    std::uint8_t* out = found.pixels.data();
    for (int y = 0; y < height; ++y)
        for (std::size_t x = 0; x < row; ++x) {
            const auto* in = &across.pixels[rows.first[y] * row + x];
            std::int32_t sum = 1 << (PRECISION - 1);
            for (std::int32_t weight : rows.of[y]) sum += weight * *in, in += row;
            *out++ = rounded(sum);
        }
    return found;
}

// ------------------------------------------------------------------------------------------- preprocessing

struct Tensor {
    int height, width;
    std::vector<float> values;  // [3, height, width], 0..1
};

// flawscope.Preprocess for 8 bits: the picture is stretched, or fitted with its edges repeated, or its centre
// is cut out. Repeated pixels are padding and marked: value v is stored as -1 - v.
Tensor preprocess(const Picture& picture, const Json& how) {
    const std::array<int, 2> whole{picture.height, picture.width};
    const std::array<int, 2> size{how["size"].items.at(0).size(), how["size"].items.at(1).size()};
    std::array<int, 2> full = size, inner = size;
    std::array<double, 2> corner{0, 0}, scale{double(size[0]) / whole[0], double(size[1]) / whole[1]};
    const bool crop = how["crop"].kind != Json::null, keep_aspect = how["keep_aspect"].yes();
    if (keep_aspect)
        scale.fill(crop ? std::max(scale[0], scale[1]) : std::min(scale[0], scale[1]));
    for (std::size_t axis : {0, 1}) {
        if (crop) {
            inner[axis] = full[axis] = how["crop"].items.at(axis).size();
            corner[axis] = std::max(0.0, (whole[axis] - inner[axis] / scale[axis]) / 2);
        } else if (keep_aspect) {  // nearbyint: halves to even, as Python rounds
            inner[axis] = std::clamp(int(std::nearbyint(whole[axis] * scale[axis])), 1, size[axis]);
        }
    }
    const std::array<double, 4> part{corner[0], corner[1], whole[0] - corner[0], whole[1] - corner[1]};
    const Picture seen = resize(picture, part, inner[0], inner[1]);
    const bool marks = how["marks_padding"].yes();
    const int top = (full[0] - inner[0]) / 2, left = (full[1] - inner[1]) / 2;
    Tensor tensor{full[0], full[1], {}};
    tensor.values.reserve(std::size_t(3) * full[0] * full[1]);
    for (int c = 0; c < 3; ++c)
        for (int y = 0; y < full[0]; ++y)
            for (int x = 0; x < full[1]; ++x) {
                const int row = std::clamp(y - top, 0, inner[0] - 1);
                const int column = std::clamp(x - left, 0, inner[1] - 1);
                const float value = seen.pixels[3 * (std::size_t(row) * inner[1] + column) + c] / 255.0f;
                const bool padding = row != y - top || column != x - left;
                tensor.values.push_back(marks && padding ? -1.0f - value : value);
            }
    return tensor;
}

// ---------------------------------------------------------------------------------------------- calibration

std::vector<double> sorted(const Json& list) {
    std::vector<double> found;
    for (const Json& item : list.items) found.push_back(item.real());
    if (found.empty()) throw std::runtime_error("the model has no calibration");
    std::sort(found.begin(), found.end());
    return found;
}

// Rank of the threshold among the calibration scores, from the highest, as in flawscope.Calibration.
std::size_t rank(double rate, std::size_t count) {
    const double found = std::floor(rate * double(count + 1) + 1e-9);
    return std::size_t(std::clamp(found, 1.0, double(count)));
}

// ---------------------------------------------------------------------------------------------------- main

int judge(int count, char** words) {
    const bool dump = count == 5 && std::string(words[3]) == "--dump";
    if (count != 3 && !dump) throw std::runtime_error("give MODEL.onnx PICTURE.ppm [--dump TENSOR.f32]");

    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "flawscope");
    Ort::Session session(env, std::filesystem::path(words[1]).c_str(), Ort::SessionOptions());
    Ort::AllocatorWithDefaultOptions allocator;
    auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated("flawscope", allocator);
    if (!text) throw std::runtime_error(std::string(words[1]) + " is not a flawscope model");
    const std::string held = text.get();
    const Json manifest = Parser(held).document();
    if (manifest["format"].real() != 2 || manifest["preprocess"].members.size() != 5)
        throw std::runtime_error("this example cannot read the model's format");

    Tensor tensor = preprocess(read_ppm(words[2]), manifest["preprocess"]);
    if (dump) {
        std::ofstream file(words[4], std::ios::binary);
        file.write(reinterpret_cast<const char*>(tensor.values.data()),
                   std::streamsize(tensor.values.size() * sizeof(float)));
        if (!file.flush()) throw std::runtime_error(std::string("cannot write ") + words[4]);
    }

    const std::array<std::int64_t, 4> shape{1, 3, tensor.height, tensor.width};
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    const Ort::Value images = Ort::Value::CreateTensor<float>(
        memory, tensor.values.data(), tensor.values.size(), shape.data(), shape.size());
    const char *inputs[] = {"images"}, *outputs[] = {"scores", "maps"};
    const auto results = session.Run(Ort::RunOptions(), inputs, &images, 1, outputs, 2);
    const float score = results[0].GetTensorData<float>()[0];
    const float* map = results[1].GetTensorData<float>();
    const auto pixels = results[1].GetTensorTypeAndShapeInfo().GetElementCount();

    const Json& good = manifest["calibration"];
    const auto scores = sorted(good["scores"]), maxima = sorted(good["map_maxima"]);
    const double rate = good["rate"].real();
    const double score_threshold = scores[scores.size() - rank(rate, scores.size())];
    const double mask_threshold = maxima[maxima.size() - rank(rate, maxima.size())];
    const auto at_least = scores.end() - std::lower_bound(scores.begin(), scores.end(), double(score));
    const auto marked = std::count_if(map, map + pixels, [&](float value) { return value > mask_threshold; });
    if (!std::isfinite(score)) throw std::runtime_error("its score is not a number");
    const double p_value = (1.0 + double(at_least)) / (double(scores.size()) + 1.0);
    std::printf("{\"score\": %.9g, \"p_value\": %.17g, \"is_anomalous\": %s, \"share_marked\": %.9g}\n",
                score, p_value, score > score_threshold ? "true" : "false", double(marked) / double(pixels));
    return 0;
}

int main(int count, char** words) {
    try {
        return judge(count, words);
    } catch (const std::exception& error) {
        std::cerr << "predict: " << error.what() << "\n";
        return 1;
    }
}
