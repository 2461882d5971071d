// Judges a picture with an exported flawscope model: C++17 and ONNX Runtime, nothing else.
//
//   predict MODEL.onnx PICTURE.ppm [--dump TENSOR.f32]
//
// The picture is a binary PPM (P6) of 8 bits, upright and without transparency. To read other formats, use
// the library that your program has. Everything else comes from the model's metadata. The input tensor is
// bit-identical to flawscope's; --dump writes it, [3, H, W] float32, and of a picture in tiles those of the
// whole picture and of each tile that is looked at, one after the other.

#include "unpack.hpp"

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
#include <numeric>
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
    bool has(const std::string& key) const { return members.count(key) > 0; }
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

using Pair = std::array<int, 2>;  // height and width, or y and x

Pair sizes(const Json& list) { return {list.items.at(0).size(), list.items.at(1).size()}; }

struct Tensor {
    int height, width;
    std::vector<float> values;  // [3, height, width], 0..1
};

// What counts [height, width], of the view of the whole picture; empty: everything.
using Region = std::vector<std::uint8_t>;

// The view of the whole picture, and the window of it that shows the picture; around it is padding.
struct Whole {
    Tensor tensor;
    Pair inner, corner;
};

// flawscope.Preprocess for 8 bits: the picture is stretched, or fitted with its edges repeated, or its centre
// is cut out. What does not count is marked, padding too: value v is stored as -1 - v.
Whole preprocess(const Picture& picture, const Json& how, const Region& region) {
    const Pair whole{picture.height, picture.width}, size = sizes(how["size"]);
    Pair full = size, inner = size;
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
                const bool counts = region.empty() || region[std::size_t(y) * full[1] + x];
                tensor.values.push_back(padding || !counts ? -1.0f - value : value);
            }
    return {tensor, inner, {top, left}};
}

// --------------------------------------------------------------------------------------------------- tiles

struct Answer {
    float score = 0;
    int height = 0, width = 0;
    std::vector<float> map;  // [height, width]
};

// The size that a picture is scaled to before tiles are cut from it.
Pair canvas_of(const Picture& picture, const Pair& size, const Pair& tile) {
    const Pair whole{picture.height, picture.width};
    Pair canvas{};
    double pixels = 1;
    for (std::size_t axis : {0, 1}) {
        const double side = std::nearbyint(double(whole[axis]) * size[axis] / tile[axis]);
        if (side < size[axis])
            throw std::runtime_error("the picture is smaller than a tile of " + std::to_string(tile[1]) + " x " +
                                     std::to_string(tile[0]) + " pixels");
        pixels *= side;
        if (pixels > (1 << 29)) throw std::runtime_error("the picture is too large for such tiles");
        canvas[axis] = int(side);
    }
    return canvas;
}

// One side of the canvas that tiles are cut from: where they begin, how much their pixels count, and where
// the canvas's pixels lie in the view of the whole picture.
struct Side {
    std::vector<int> starts;
    std::vector<std::vector<float>> weights;  // of each tile; 1 together, and less towards a neighbour
    std::vector<double> places;

    Side(int whole, int canvas, int part, double overlap, int inner, int corner) {
        const int stride = std::max(1, part - int(std::nearbyint(overlap * part)));
        for (int start = 0;; start += stride) {
            starts.push_back(std::min(start, canvas - part));  // the last one is moved inwards
            if (start >= canvas - part) break;
        }
        std::vector<std::vector<double>> ramps(starts.size(), std::vector<double>(std::size_t(part), 1.0));
        std::vector<double> total(std::size_t(canvas), 0.0);
        for (std::size_t k = 0; k + 1 < starts.size(); ++k) {
            const double shared = starts[k] + part - starts[k + 1];
            for (int i = 0; shared > 0 && i < part; ++i) {
                ramps[k][std::size_t(i)] *= std::min(1.0, (part - (i + 0.5)) / shared);
                ramps[k + 1][std::size_t(i)] *= std::min(1.0, (i + 0.5) / shared);
            }
        }
        for (std::size_t k = 0; k < starts.size(); ++k)
            for (int i = 0; i < part; ++i) total[std::size_t(starts[k] + i)] += ramps[k][std::size_t(i)];
        for (std::size_t k = 0; k < starts.size(); ++k) {
            weights.emplace_back();
            for (int i = 0; i < part; ++i)
                weights[k].push_back(float(ramps[k][std::size_t(i)] / total[std::size_t(starts[k] + i)]));
        }
        const double step = double(inner) / whole * whole / canvas;  // as flawscope rounds it
        for (int i = 0; i < canvas; ++i) places.push_back((i + 0.5) * step + corner);
    }
};

// A tile of the canvas as the network takes it.
Tensor cut(const Picture& canvas, int top, int left, int height, int width, const Region& counts) {
    Tensor tensor{height, width, {}};
    tensor.values.reserve(std::size_t(3) * height * width);
    for (int c = 0; c < 3; ++c)
        for (int y = 0; y < height; ++y)
            for (int x = 0; x < width; ++x) {
                const std::size_t pixel = std::size_t(top + y) * canvas.width + left + x;
                const float value = canvas.pixels[3 * pixel + c] / 255.0f;
                tensor.values.push_back(counts[std::size_t(y) * width + x] ? value : -1.0f - value);
            }
    return tensor;
}

// A map at one place between its pixels, whose centres lie at i + 0.5.
float between(const Answer& view, double y, double x) {
    y = std::clamp(y - 0.5, 0.0, view.height - 1.0);
    x = std::clamp(x - 0.5, 0.0, view.width - 1.0);
    const int y0 = int(y), y1 = std::min(y0 + 1, view.height - 1);
    const int x0 = int(x), x1 = std::min(x0 + 1, view.width - 1);
    const float down = float(y - y0), across = float(x - x0);
    auto column = [&](int at) {
        const float above = view.map[std::size_t(y0) * view.width + at];
        return above + (view.map[std::size_t(y1) * view.width + at] - above) * down;
    };
    const float left = column(x0);
    return left + (column(x1) - left) * across;
}

// Score and map of a canvas: its tiles' maps are blended, and the larger of that and of the whole picture's
// view counts, which is brought to the tiles' scale.
template <typename Run>
Answer with_tiles(const Picture& canvas, const std::array<Side, 2>& sides, Answer view, const Region& region,
                  const Json& fusion, Run run) {
    const double factor = fusion["factor"].real(), shift = fusion["shift"].real();
    view.score = float(view.score * factor + shift);
    for (float& value : view.map) value = value * float(factor) + float(shift);
    auto counts = [&](int y, int x) {
        const auto row = std::size_t(sides[0].places[y]), column = std::size_t(sides[1].places[x]);
        return region.empty() || region[row * view.width + column];
    };
    Answer found{view.score, canvas.height, canvas.width, {}};
    found.map.resize(std::size_t(canvas.height) * canvas.width);
    float lowest = std::numeric_limits<float>::infinity();
    for (std::size_t i = 0; i < sides[0].starts.size(); ++i)
        for (std::size_t j = 0; j < sides[1].starts.size(); ++j) {
            const int top = sides[0].starts[i], left = sides[1].starts[j];
            Region counted;
            for (int y = top; y < top + view.height; ++y)
                for (int x = left; x < left + view.width; ++x) counted.push_back(counts(y, x));
            if (std::find(counted.begin(), counted.end(), 1) == counted.end()) continue;
            const Answer tile = run(cut(canvas, top, left, view.height, view.width, counted));
            found.score = std::isnan(tile.score) ? tile.score : std::max(found.score, tile.score);
            for (int y = 0; y < tile.height; ++y)
                for (int x = 0; x < tile.width; ++x) {
                    const float value = tile.map[std::size_t(y) * tile.width + x];
                    found.map[std::size_t(top + y) * found.width + left + x] +=
                        value * sides[0].weights[i][y] * sides[1].weights[j][x];
                    lowest = std::min(lowest, value);
                }
        }
    if (!std::isfinite(lowest)) lowest = 0;
    float largest = -std::numeric_limits<float>::infinity();
    for (int y = 0; y < found.height; ++y)
        for (int x = 0; x < found.width; ++x) {
            float& value = found.map[std::size_t(y) * found.width + x];
            if (counts(y, x))
                value = std::max(value, between(view, sides[0].places[y], sides[1].places[x]));
            else
                value = lowest;  // tiles there were not looked at
            largest = std::isnan(value) ? value : std::max(largest, value);
        }
    if (fusion["score"].string == "map") found.score = largest;
    return found;
}

// ---------------------------------------------------------------------------------------------- calibration

// A column of the good pictures that count.
std::vector<double> counted(const Json& pictures, const std::string& column) {
    std::vector<double> found;
    const auto& scores = pictures["score"].items;
    for (std::size_t k = 0; k < scores.size(); ++k)
        if (pictures["counted"].items.at(k).yes() && scores[k].kind != Json::null)
            found.push_back(pictures[column].items.at(k).real());
    if (found.empty()) throw std::runtime_error("the model has no calibration");
    return found;
}

// Good pictures' weights: those of a unit, which show one part, have 1 together, as in flawscope.Calibration.
struct UnitWeights {
    std::vector<double> each;
    std::size_t units = 0;

    UnitWeights(const std::vector<double>& unit, bool promised) : each(unit.size(), 1.0), units(unit.size()) {
        if (!promised) return;  // each picture by itself
        std::map<double, double> size;
        for (double number : unit) size[number] += 1;
        for (std::size_t k = 0; k < unit.size(); ++k) each[k] = 1 / size[unit[k]];
        units = size.size();
    }

    // The smallest of the pictures' values above which no more of them lie than the rate allows.
    double threshold(const std::vector<double>& values, double rate) const {
        std::vector<std::size_t> order(values.size());
        std::iota(order.begin(), order.end(), std::size_t(0));
        std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return values[a] > values[b]; });
        const double allowed = rate * double(units + 1) - 1 + 1e-9;
        double above = 0;
        for (std::size_t k = 0; k + 1 < order.size(); ++k) {
            above += each[order[k]];
            if (above > allowed) return values[order[k]];
        }
        return values[order.back()];
    }
};

// ---------------------------------------------------------------------------------------------------- main

int judge(int count, char** words) {
    const bool dump = count == 5 && std::string(words[3]) == "--dump";
    if (count != 3 && !dump) throw std::runtime_error("give MODEL.onnx PICTURE.ppm [--dump TENSOR.f32]");

#ifdef _WIN32
    _putenv_s("ORT_DISABLE_TELEMETRY", "1");
#else
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // before it begins: nothing is sent to anybody
#endif
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "flawscope");
    Ort::Session session(env, std::filesystem::path(words[1]).c_str(), Ort::SessionOptions());
    Ort::AllocatorWithDefaultOptions allocator;
    auto entry = [&](const char* key) {
        auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated(key, allocator);
        return std::string(text ? text.get() : "");
    };
    const std::string held = entry("flawscope"), packed = entry("flawscope.region");
    if (held.empty()) throw std::runtime_error(std::string(words[1]) + " is not a flawscope model");
    const Json manifest = Parser(held).document();
    const Json& how = manifest["preprocess"];
    const bool tiled = how.has("tile");
    const std::size_t known = (tiled ? 6 : 4) + how.has("black_level");  // of deep pictures
    const double format = manifest["format"].real();
    if ((format != 5 && format != 6) || how.members.size() != known ||
        (tiled && how["crop"].kind != Json::null))
        throw std::runtime_error("this example cannot read the model's format");

    Picture picture = read_ppm(words[2]);
    const Pair size = sizes(how["size"]);
    const Pair canvas = tiled ? canvas_of(picture, size, sizes(how["tile"])) : size;
    Region region;
    if (tiled && !packed.empty()) region = unpacked(packed, std::size_t(size[0]) * size[1]);

    std::ofstream file;
    if (dump) file.open(words[4], std::ios::binary);
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto run = [&](Tensor tensor) {
        if (dump && !file.write(reinterpret_cast<const char*>(tensor.values.data()),
                                std::streamsize(tensor.values.size() * sizeof(float))).flush())
            throw std::runtime_error(std::string("cannot write ") + words[4]);
        const std::array<std::int64_t, 4> shape{1, 3, tensor.height, tensor.width};
        const Ort::Value given = Ort::Value::CreateTensor<float>(
            memory, tensor.values.data(), tensor.values.size(), shape.data(), shape.size());
        const char *inputs[] = {"images"}, *outputs[] = {"scores", "maps"};
        const auto results = session.Run(Ort::RunOptions(), inputs, &given, 1, outputs, 2);
        const float* map = results[1].GetTensorData<float>();
        const auto pixels = results[1].GetTensorTypeAndShapeInfo().GetElementCount();
        Answer answer{*results[0].GetTensorData<float>(), tensor.height, tensor.width, {map, map + pixels}};
        if (pixels != tensor.values.size() / 3) throw std::runtime_error("its map has another size");
        return answer;
    };
    Whole first = preprocess(picture, how, region);
    Answer found = run(std::move(first.tensor));
    if (canvas != size) {
        const double overlap = how["overlap"].real();
        if (!(overlap >= 0 && overlap <= 0.75)) throw std::runtime_error("its tiles overlap too much");
        const auto side = [&](std::size_t axis, int whole) {
            return Side(whole, canvas[axis], size[axis], overlap, first.inner[axis], first.corner[axis]);
        };
        const std::array<Side, 2> sides{side(0, picture.height), side(1, picture.width)};
        if (canvas != Pair{picture.height, picture.width}) {
            const double height = picture.height, width = picture.width;
            picture = resize(picture, {0, 0, height, width}, canvas[0], canvas[1]);
        }
        found = with_tiles(picture, sides, std::move(found), region, manifest["fusion"], run);
    }

    const Json &good = manifest["calibration"], &pictures = manifest["pictures"];
    const auto scores = counted(pictures, "score"), maxima = counted(pictures, "maximum");
    const UnitWeights weights(counted(pictures, "unit"), good["promised"].yes());
    const double rate = good["rate"].real();
    const double score_threshold = weights.threshold(scores, rate);
    const double mask_threshold = weights.threshold(maxima, rate);
    const float score = found.score;
    if (!std::isfinite(score)) throw std::runtime_error("its score is not a number");
    double at_least = 0;
    for (std::size_t k = 0; k < scores.size(); ++k)
        if (scores[k] >= double(score)) at_least += weights.each[k];
    const auto marked = std::count_if(found.map.begin(), found.map.end(),
                                      [&](float value) { return value > mask_threshold; });
    const double p_value = (1.0 + at_least) / (double(weights.units) + 1.0);
    std::printf("{\"score\": %.9g, \"p_value\": %.17g, \"is_anomalous\": %s, \"share_marked\": %.9g}\n",
                score, p_value, score > score_threshold ? "true" : "false",
                double(marked) / double(found.map.size()));
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
