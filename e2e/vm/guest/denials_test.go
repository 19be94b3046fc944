package guest

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

const auditLog = "/var/log/audit/audit.log"

// A denial is one that SELinux wrote to the audit log, in the form
// "webapp_foo_t shadow_t:file read": who, on what, what.
type denial struct{ what, line string }

var (
	refused  = regexp.MustCompile(`^type=(?:USER_)?AVC .*denied +{ ([a-z_ ]+) } .*scontext=[^:]+:[^:]+:([^:]+):\S+ tcontext=[^:]+:[^:]+:([^:]+):\S+ tclass=(\w+)`)
	policyUp = regexp.MustCompile(`^type=SELINUX_ERR `)
)

// watchDenials makes the end of the test check what SELinux denied meanwhile:
// all that was expected, and nothing else.
func (h *host) watchDenials(from int64) {
	h.Cleanup(func() {
		expected := slices.Clone(h.expected)
		for _, d := range h.deniedSince(from) {
			if slices.ContainsFunc(h.tolerated, func(by string) bool { return strings.HasPrefix(d.what, by+" ") }) {
				continue
			}
			if i := slices.Index(h.expected, d.what); i < 0 {
				h.Errorf("SELinux denied %s\n%s", d.what, d.line)
			} else if j := slices.Index(expected, d.what); j >= 0 {
				expected = slices.Delete(expected, j, j+1)
			}
		}
		for _, what := range expected {
			h.Errorf("SELinux did not deny %s", what)
		}
	})
}

// expectDenial says that the test provokes a denial, at least once. Of several
// permissions denied at once each is one denial.
func (h *host) expectDenial(what ...string) { h.expected = append(h.expected, what...) }

// tolerate says that the test makes a process in the domain by try many things:
// what that one is denied is looked at by other means.
func (h *host) tolerate(by string) { h.tolerated = append(h.tolerated, by) }

// deniedSince returns what was denied after a position of the audit log.
func (h *host) deniedSince(from int64) []denial {
	h.Helper()
	f, err := os.Open(auditLog)
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, from, h.auditMark()-from))
	if err != nil {
		h.Fatal(err)
	}
	var out []denial
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if m := refused.FindStringSubmatch(line); m != nil {
			for perm := range strings.FieldsSeq(m[1]) {
				out = append(out, denial{m[2] + " " + m[3] + ":" + m[4] + " " + perm, line})
			}
		} else if policyUp.MatchString(line) {
			out = append(out, denial{"an invalid context or transition", line})
		}
	}
	return out
}

// auditMark waits until everything that the kernel has audited so far is in
// the log, and returns the position after it.
func (h *host) auditMark() int64 {
	h.Helper()
	mark := fmt.Sprintf("liege-mark-%d", time.Now().UnixNano())
	h.run("auditctl", "-m", mark)
	var end int64
	h.until("the audit log has all", func() bool {
		text, err := os.ReadFile(auditLog)
		at := strings.Index(string(text), mark)
		if err != nil || at < 0 {
			return false
		}
		end = int64(at + len(mark))
		return true
	})
	return end
}
