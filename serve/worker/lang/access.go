package lang

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

var aPath = regexp.MustCompile(`/[^\s:'"]+`)

// AccessHint is for a message about a path that may not be opened or entered:
// which step of it is whose, with which mode, and what lets the app in; for
// another message it is otherwise.
func AccessHint(message, otherwise string) string {
	p := aPath.FindString(message)
	if p == "" || !strings.Contains(strings.ToLower(message), "permission denied") {
		return otherwise
	}
	p = path.Clean(p)
	fi, err := os.Stat(p)
	for errors.Is(err, fs.ErrPermission) && p != "/" {
		p = path.Dir(p)
		fi, err = os.Stat(p)
	}
	if err != nil {
		return otherwise
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return otherwise
	}
	me, letter := name(os.Geteuid()), "r"
	if fi.IsDir() {
		letter = "x"
	}
	return fmt.Sprintf("%s is %04o of %s, and the app runs as %s: chown %s %s, or chmod o+%s %s", p, fi.Mode().Perm(), name(int(st.Uid)), me, me, p, letter, p)
}

// name is that of a user, or its number.
func name(uid int) string {
	id := strconv.Itoa(uid)
	u, err := user.LookupId(id)
	if err != nil {
		return id
	}
	return cmp.Or(u.Username, id)
}
