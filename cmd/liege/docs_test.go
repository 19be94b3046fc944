package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"liege/vassal"
	"liege/vassal/inifile"
)

// example is a piece of a vassal file, or of emperor.ini, in a page.
type example struct {
	page string
	line int
	text string
}

var (
	iniLine = regexp.MustCompile(`^(\[.*|[;#].*|[a-z][a-z0-9-]*( *=.*)?)$`)
	iniKey  = regexp.MustCompile(`^([a-z][a-z0-9-]*) *=`)
)

// examples are the paragraphs of a page's blocks that look like one.
func examples(page, text string) (found []example) {
	var lines []string
	fenced, begin := false, 0
	end := func() {
		if isExample(lines) {
			found = append(found, example{page, begin, strings.Join(lines, "\n") + "\n"})
		}
		lines = nil
	}
	for i, l := range strings.Split(text, "\n") {
		if strings.HasPrefix(l, "```") {
			end()
			fenced = !fenced
			continue
		}
		in, ok := strings.CutPrefix(l, "    ")
		if fenced {
			in, ok = l, true
		}
		if !ok || strings.TrimSpace(in) == "" {
			end()
			continue
		}
		if lines == nil {
			begin = i + 1
		}
		lines = append(lines, strings.TrimRight(in, " "))
	}
	end()
	return found
}

func isExample(lines []string) bool {
	known := false
	for _, l := range lines {
		if !iniLine.MatchString(l) {
			return false
		}
		if m := iniKey.FindStringSubmatch(l); m != nil {
			_, option := inifile.Lookup(m[1])
			known = known || option || slices.ContainsFunc(inifile.EmperorOptions(), func(o inifile.EmperorOption) bool { return o.Name == m[1] })
		}
	}
	return known
}

// wrongAsPasted are the codes of what no reader may be shown as an example;
// others are about a host that is not this one, or what a piece leaves out.
var wrongAsPasted = []string{vassal.CodeSyntax, vassal.CodeNoSection, vassal.CodeTrailingText, vassal.CodeCommentInValue, vassal.CodeQuotedValue,
	vassal.CodeUnknownOption, vassal.CodeBadValue, vassal.CodeBadHook, vassal.CodeBadRoute, vassal.CodeBadCache, vassal.CodeBadMetric, vassal.CodeBlock,
	vassal.CodeVanishedPercent, vassal.CodePlaceholder, vassal.CodeRefused}

// meant are pieces that need a line which another piece of the page has.
var meant = map[string]string{
	"caching.md add-cache-item": vassal.CodeBadCache, "caching.md load-file-in-cache": vassal.CodeBadCache, "caching.md load-file-in-cache-gzip": vassal.CodeBadCache,
	"tls.md sni": vassal.CodeBadValue,
}

// TestDocs: what the pages show can be pasted. A text after a value is part of
// it, as in uWSGI, so that a comment there ends up in a path or a command.
func TestDocs(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range examples(filepath.Base(page), string(text)) {
			n++
			given := e.text
			if !strings.HasPrefix(given, "[") && !strings.Contains(given, "\n[") {
				given = "[vassal]\n" + given
			}
			for l := range strings.Lines(e.text) {
				if m := iniKey.FindString(l); m != "" && (strings.Contains(l, " ;") || strings.Contains(l, " #")) {
					t.Errorf("%s:%d: a comment after the value: %s", e.page, e.line, l)
				}
			}
			var out, said bytes.Buffer
			code := run(t.Context(), []string{"check", "--syntax", "--json", "-"}, stdio{strings.NewReader(given), &out, &said})
			var got struct {
				Files []struct{ Problems vassal.Problems }
			}
			if err := json.Unmarshal(out.Bytes(), &got); err != nil || len(got.Files) != 1 {
				t.Fatalf("%s:%d: %d %s %v", e.page, e.line, code, &said, err)
			}
			for _, p := range got.Files[0].Problems {
				if slices.Contains(wrongAsPasted, p.Code) && meant[e.page+" "+p.Key] != p.Code {
					t.Errorf("%s:%d: %s %s: %s: %s\n%s", e.page, e.line, p.Severity, p.Code, p.Key, p.Message, e.text)
				}
			}
		}
	}
	if n < 40 {
		t.Errorf("%d examples were found; are they written in another way?", n)
	}
}
