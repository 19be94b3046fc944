package inifile

import (
	"errors"
	"strings"
)

// splitWords cuts a command into words as a shell does, without a shell:
// blanks separate them; '…' is taken as it is; in "…" a backslash keeps the
// next character of \ and "; elsewhere it keeps the next one, whatever it is.
// Nothing is expanded.
func splitWords(s string) ([]string, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return nil, errors.New("a NUL byte")
	}
	var words []string
	var b strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == '\'' && c != '\'', quote == '"' && c != '"' && c != '\\':
			b.WriteByte(c)
		case quote != 0 && c == quote:
			quote = 0
		case c == '\\' && i+1 == len(s):
			return nil, errors.New("a backslash at the end")
		case c == '\\' && quote == '"' && s[i+1] != '"' && s[i+1] != '\\':
			b.WriteByte(c)
		case c == '\\':
			i++
			in = true
			b.WriteByte(s[i])
		case c == '\'' || c == '"':
			in, quote = true, c
		case c == ' ' || c == '\t':
			if in {
				words = append(words, b.String())
				b.Reset()
			}
			in = false
		default:
			in = true
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote that is not closed")
	}
	if in {
		words = append(words, b.String())
	}
	if len(words) == 0 || words[0] == "" {
		return nil, errors.New("no program")
	}
	return words, nil
}

// shellWord reports whether w, a word of a command without a shell, looks as if
// one were meant.
func shellWord(w string) bool {
	switch strings.TrimLeft(w, "012") {
	case "|", "||", "&", "&&", ";", ">", ">>", "<", ">&1", ">&2", "&>":
		return true
	}
	return false
}

// keyvals cuts "k=v,k2=v2". Quotes and backslashes keep a comma, as in uWSGI.
func keyvals(s string) ([][2]string, error) {
	var out [][2]string
	var b strings.Builder
	quote := byte(0)
	add := func() {
		if item := b.String(); strings.TrimSpace(item) != "" {
			k, v, _ := strings.Cut(item, "=")
			out = append(out, [2]string{strings.TrimSpace(k), v})
		}
		b.Reset()
	}
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			b.WriteByte(c)
		case (c == '"' || c == '\'') && strings.HasSuffix(b.String(), "="):
			quote = c
		case c == ',':
			add()
		default:
			b.WriteByte(c)
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote that is not closed")
	}
	add()
	return out, nil
}
