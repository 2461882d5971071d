// A model's region of interest, unpacked: what Python's zlib.compress and base64.b64encode made of it. A
// program that has zlib takes its uncompress() instead.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

[[noreturn]] inline void damaged() { throw std::runtime_error("the model's region of interest is damaged"); }

inline std::string from_base64(const std::string& text) {
    static const std::string letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string found;
    std::uint32_t bits = 0;
    int count = 0;
    for (char letter : text) {
        if (letter == '=') break;
        const auto value = letters.find(letter);
        if (value == std::string::npos) damaged();
        bits = bits << 6 | std::uint32_t(value);
        if ((count += 6) >= 8) found += char(bits >> (count -= 8) & 0xff);
    }
    return found;
}

// RFC 1950 and 1951, without their checksum. The size is known, and no more than that is unpacked.
class Unpacked {
public:
    std::vector<std::uint8_t> bytes;

    Unpacked(const std::string& packed, std::size_t wanted) : in(packed), size(wanted) {
        bool last = false;
        while (!last) {
            last = bits(1) != 0;
            const int kind = bits(2);
            if (kind == 0) stored();
            else if (kind == 1) fixed();
            else if (kind == 2) dynamic();
            else damaged();
        }
        if (bytes.size() != size) damaged();
    }

private:
    const std::string& in;
    std::size_t size, at = 2;  // after zlib's header
    std::uint32_t held = 0;
    int holds = 0;

    // A Huffman code: how many words of each length there are, and what they mean, in order.
    struct Code {
        std::array<int, 16> count{};
        std::vector<int> meaning;

        explicit Code(const std::vector<int>& lengths) {
            int left = 1;
            for (std::size_t length = 1; length < 16; ++length) {
                for (std::size_t k = 0; k < lengths.size(); ++k)
                    if (lengths[k] == int(length)) ++count[length], meaning.push_back(int(k));
                if ((left = 2 * left - count[length]) < 0) damaged();  // more words than there can be
            }
        }
    };

    int bits(int count) {
        while (holds < count) {
            if (at >= in.size()) damaged();
            held |= std::uint32_t(std::uint8_t(in[at++])) << holds;
            holds += 8;
        }
        const int found = int(held & ((1u << count) - 1));
        held >>= count, holds -= count;
        return found;
    }

    int word(const Code& code) {
        int value = 0, first = 0, before = 0;
        for (std::size_t length = 1; length < 16; ++length) {
            value |= bits(1);
            const int count = code.count[length];
            if (value - first < count) return code.meaning[std::size_t(before + value - first)];
            before += count, first = (first + count) << 1, value <<= 1;
        }
        damaged();
    }

    void put(std::uint8_t byte) {
        if (bytes.size() >= size) damaged();
        bytes.push_back(byte);
    }

    void stored() {
        held = 0, holds = 0;  // up to the next byte
        int count = bits(16);
        bits(16);
        while (count-- > 0) put(std::uint8_t(bits(8)));
    }

    void fixed() {
        std::vector<int> lengths(288 + 30, 5);
        for (std::size_t k = 0; k < 288; ++k) lengths[k] = k < 144 ? 8 : k < 256 ? 9 : k < 280 ? 7 : 8;
        block(lengths, 288);
    }

    void dynamic() {
        static const std::size_t order[] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
        const int literals = 257 + bits(5), distances = 1 + bits(5), count = 4 + bits(4);
        std::vector<int> of_lengths(19, 0), lengths;
        for (int k = 0; k < count; ++k) of_lengths[order[k]] = bits(3);
        const Code code(of_lengths);
        const auto all = std::size_t(literals + distances);
        while (lengths.size() < all) {
            const int symbol = word(code);
            if (symbol == 16 && lengths.empty()) damaged();
            int value = symbol, times = 1;
            if (symbol == 16) value = lengths.back(), times = 3 + bits(2);
            if (symbol == 17) value = 0, times = 3 + bits(3);
            if (symbol == 18) value = 0, times = 11 + bits(7);
            lengths.insert(lengths.end(), std::size_t(times), value);
        }
        if (lengths.size() > all) damaged();
        block(lengths, literals);
    }

    void block(const std::vector<int>& lengths, int literals) {
        const Code of_bytes({lengths.begin(), lengths.begin() + literals});
        const Code of_distances({lengths.begin() + literals, lengths.end()});
        for (int symbol = word(of_bytes); symbol != 256; symbol = word(of_bytes)) {
            if (symbol < 256) {
                put(std::uint8_t(symbol));
                continue;
            }
            const int step = symbol - 257;
            const int more = step < 8 || step == 28 ? 0 : step / 4 - 1;
            int length = step == 28 ? 258 : step < 8 ? 3 + step : 3 + ((4 + step % 4) << more) + bits(more);
            const int from = word(of_distances), beyond = from < 4 ? 0 : from / 2 - 1;
            const int distance = from < 4 ? 1 + from : 1 + ((2 + from % 2) << beyond) + bits(beyond);
            if (step > 28 || from > 29 || std::size_t(distance) > bytes.size()) damaged();
            while (length-- > 0) put(bytes[bytes.size() - std::size_t(distance)]);
        }
    }
};

inline std::vector<std::uint8_t> unpacked(const std::string& text, std::size_t size) {
    return Unpacked(from_base64(text), size).bytes;
}
