package selinux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	goselinux "github.com/opencontainers/selinux/go-selinux"
)

// selinuxfs is where it is mounted.
type selinuxfs string

func (s selinuxfs) canonical(context string) (string, error) {
	return goselinux.CanonicalizeContext(context)
}

func (s selinuxfs) allowed(from, to, class, permission string) (ok, permissive bool, err error) {
	index, err := goselinux.ClassIndex(class)
	if err != nil {
		return false, false, fmt.Errorf("class %s: %w", class, err)
	}
	b, err := os.ReadFile(filepath.Join(string(s), "class", class, "perms", permission))
	if notThere(err) {
		return false, false, fmt.Errorf("the policy has no permission %s %s", class, permission)
	}
	if err != nil {
		return false, false, err
	}
	bit, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 6)
	if err != nil || bit < 1 || bit > 32 {
		return false, false, fmt.Errorf("number of permission %s: %q", permission, b)
	}
	mask := uint32(1) << (bit - 1)
	answer, err := s.transact("access", question(from, to, index, mask))
	if err != nil {
		return false, false, err
	}
	vector, permissive, err := parseAnswer(answer)
	return vector&mask == mask, permissive, err
}

func (s selinuxfs) created(from, to, class string) (string, error) {
	index, err := goselinux.ClassIndex(class)
	if err != nil {
		return "", fmt.Errorf("class %s: %w", class, err)
	}
	return s.transact("create", fmt.Sprintf("%s %s %d", from, to, index))
}

// transact writes to a file of selinuxfs and reads the answer.
func (s selinuxfs) transact(name, text string) (string, error) {
	f, err := os.OpenFile(filepath.Join(string(s), name), os.O_RDWR, 0)
	if err != nil {
		return "", err
	}
	var n int
	buf := make([]byte, 4096)
	if _, err = f.WriteString(text); err == nil {
		n, err = f.Read(buf)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// question is what "access" is asked: two contexts, a class and the wanted
// permissions.
func question(from, to string, class int, mask uint32) string {
	return fmt.Sprintf("%s %s %d %x", from, to, class, mask)
}

// permissiveFlag is AVD_FLAGS_PERMISSIVE.
const permissiveFlag = 1

// parseAnswer reads what "access" answers: allowed, decided, auditallow,
// auditdeny and flags in hexadecimal, and before the flags a decimal sequence
// number.
func parseAnswer(s string) (allowed uint32, permissive bool, err error) {
	f := strings.Fields(strings.TrimRight(s, "\x00"))
	if len(f) < 5 {
		return 0, false, fmt.Errorf("answer of selinuxfs: %q", s)
	}
	v, err := strconv.ParseUint(f[0], 16, 32)
	if err != nil {
		return 0, false, fmt.Errorf("answer of selinuxfs: %q", s)
	}
	if len(f) > 5 {
		flags, err := strconv.ParseUint(f[5], 16, 32)
		if err != nil {
			return 0, false, fmt.Errorf("answer of selinuxfs: %q", s)
		}
		permissive = flags&permissiveFlag != 0
	}
	return uint32(v), permissive, nil
}
