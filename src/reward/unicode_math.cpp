// SPDX-License-Identifier: Apache-2.0
#include "reward/unicode_math.h"

#include <utility>

namespace lockstep::reward {
namespace {

/// Characters, and signs of several, and what they are in LaTeX.
constexpr std::pair<std::string_view, std::string_view> kUnicode[] = {
    {"+/-", "\\pm "},
    {"-/+", "\\mp "},
    {"−", "-"},
    {"–", "-"},
    {"—", "-"},
    {"×", "\\times "},
    {"⋅", "\\cdot "},
    {"·", "\\cdot "},
    {"∙", "\\cdot "},
    {"•", "\\cdot "},
    {"÷", "\\div "},
    {"∕", "/"},
    {"⁄", "/"},
    {"±", "\\pm "},
    {"∓", "\\mp "},
    {"≤", "\\le "},
    {"⩽", "\\le "},
    {"≦", "\\le "},
    {"≥", "\\ge "},
    {"⩾", "\\ge "},
    {"≧", "\\ge "},
    {"≠", "\\ne "},
    {"≮", "\\nless "},
    {"≯", "\\ngtr "},
    {"≈", "\\approx "},
    {"≃", "\\approx "},
    {"≅", "\\cong "},
    {"≐", "\\approx "},
    {"∼", "\\sim "},
    {"≡", "\\equiv "},
    {"∞", "\\infty "},
    {"√", "\\surd "},
    {"∛", "\\surd[3]"},
    {"∜", "\\surd[4]"},
    {"∪", "\\cup "},
    {"∩", "\\cap "},
    {"∖", "\\setminus "},
    {"∈", "\\in "},
    {"∉", "\\notin "},
    {"∅", "\\emptyset "},
    {"ℝ", "\\mathbb{R}"},
    {"ℤ", "\\mathbb{Z}"},
    {"ℕ", "\\mathbb{N}"},
    {"ℚ", "\\mathbb{Q}"},
    {"ℂ", "\\mathbb{C}"},
    {"°", "^{\\circ}"},
    {"º", "^{\\circ}"},
    {"∘", "\\circ "},
    {"½", "\\frac{1}{2}"},
    {"⅓", "\\frac{1}{3}"},
    {"⅔", "\\frac{2}{3}"},
    {"¼", "\\frac{1}{4}"},
    {"¾", "\\frac{3}{4}"},
    {"⅕", "\\frac{1}{5}"},
    {"⅖", "\\frac{2}{5}"},
    {"⅗", "\\frac{3}{5}"},
    {"⅘", "\\frac{4}{5}"},
    {"⅙", "\\frac{1}{6}"},
    {"⅚", "\\frac{5}{6}"},
    {"⅐", "\\frac{1}{7}"},
    {"⅛", "\\frac{1}{8}"},
    {"⅜", "\\frac{3}{8}"},
    {"⅝", "\\frac{5}{8}"},
    {"⅞", "\\frac{7}{8}"},
    {"⅑", "\\frac{1}{9}"},
    {"⅒", "\\frac{1}{10}"},
    {"∠", "\\angle "},
    {"△", "\\triangle "},
    {"⊥", "\\perp "},
    {"∥", "\\parallel "},
    {"⌊", "\\lfloor "},
    {"⌋", "\\rfloor "},
    {"⌈", "\\lceil "},
    {"⌉", "\\rceil "},
    {"⟨", "\\langle "},
    {"⟩", "\\rangle "},
    {"∨", "\\lor "},
    {"∧", "\\land "},
    {"→", "\\to "},
    {"⇒", "\\implies "},
    {"…", "\\ldots "},
    {"⋯", "\\cdots "},
    {"∑", "\\sum "},
    {"∏", "\\prod "},
    {"∣", "|"},
    {"（", "("},
    {"）", ")"},
    {"，", ","},
    {"；", ";"},
    {"：", ":"},
    {"＝", "="},
    {"＜", "<"},
    {"＞", ">"},
    {"＋", "+"},
    {"％", "%"},
    {"．", "."},
    {"\u2009", "\\,"},
    {"\u202f", "\\,"},
    {"\u00a0", "\\,"},
    {"\u2007", "\\,"},
    {"\u200b", ""},
    {"\u2061", ""},
    {"\u2062", ""},
    {"€", ""},
    {"£", ""},
    {"¥", ""},
    {"₹", ""},
    {"¢", ""},
    {"α", "\\alpha "},
    {"β", "\\beta "},
    {"γ", "\\gamma "},
    {"δ", "\\delta "},
    {"ε", "\\epsilon "},
    {"θ", "\\theta "},
    {"λ", "\\lambda "},
    {"μ", "\\mu "},
    {"µ", "\\mu "},
    {"π", "\\pi "},
    {"ρ", "\\rho "},
    {"σ", "\\sigma "},
    {"τ", "\\tau "},
    {"φ", "\\phi "},
    {"ϕ", "\\phi "},
    {"ω", "\\omega "},
    {"Δ", "\\Delta "},
    {"Ω", "\\Omega "},
    {"Σ", "\\Sigma "},
    {"ℓ", "\\ell "},
};

constexpr std::pair<std::string_view, char> kRaised[] = {
    {"⁰", '0'}, {"¹", '1'}, {"²", '2'}, {"³", '3'}, {"⁴", '4'}, {"⁵", '5'}, {"⁶", '6'},
    {"⁷", '7'}, {"⁸", '8'}, {"⁹", '9'}, {"⁻", '-'}, {"⁺", '+'}, {"ⁿ", 'n'}};
constexpr std::pair<std::string_view, char> kLowered[] = {
    {"₀", '0'}, {"₁", '1'}, {"₂", '2'}, {"₃", '3'}, {"₄", '4'}, {"₅", '5'},
    {"₆", '6'}, {"₇", '7'}, {"₈", '8'}, {"₉", '9'}, {"ₙ", 'n'}};

/// The entry of a table that `text` begins with, or null.
template <class Table>
auto entry_of(const Table& table, std::string_view text) -> decltype(&table[0]) {
  for (const auto& entry : table) {
    if (text.starts_with(entry.first)) return &entry;
  }
  return nullptr;
}

/// A run of raised or lowered characters as "^{12}" or "_{12}".
template <class Table>
bool take_script(const Table& table, char sign, std::string_view& text, std::string& out) {
  std::string script;
  while (const auto* entry = entry_of(table, text)) {
    script += entry->second;
    text.remove_prefix(entry->first.size());
  }
  if (script.empty()) return false;
  out += std::string(1, sign) + "{" + script + "}";
  return true;
}

}  // namespace

std::string unicode_to_latex(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const bool is_ascii = static_cast<unsigned char>(text[0]) < 0x80;
    if (is_ascii && !text.starts_with("+/-") && !text.starts_with("-/+")) {
      out += text[0] == '\n' || text[0] == '\t' || text[0] == '\r' ? ' ' : text[0];
      text.remove_prefix(1);
    } else if (const auto* entry = entry_of(kUnicode, text)) {
      out += entry->second;
      text.remove_prefix(entry->first.size());
    } else if (!take_script(kRaised, '^', text, out) && !take_script(kLowered, '_', text, out)) {
      out += text[0];
      text.remove_prefix(1);
    }
  }
  return out;
}

}  // namespace lockstep::reward
