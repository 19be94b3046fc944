package launch

import (
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"liege/sandbox"
)

// mailProgram is where programs expect it.
const mailProgram = "/usr/sbin/sendmail"

// mailer puts /usr/sbin/sendmail into the sandbox. A vassal that sends no mail
// starts without it where that cannot be done, for it keeps nobody out and lets
// nobody in.
func (s *start) mailer(context.Context) error {
	c := s.p.Result.Mail.Server
	m, target, err := s.mailMount()
	switch {
	case err == nil:
		s.attach(m, target, c.At)
	case c.Address != "":
		return mountProblem(c.At, c.Key, mailProgram, err)
	}
	return nil
}

// mailMount makes a mount of the program, and says where it goes: over the
// host's own, which could not deliver inside; where the host has none, a union
// of the directory with ours. In a tree a mount point is made where there is
// none.
func (s *start) mailMount() (mount *os.File, target string, err error) {
	if s.spec.Tree != nil {
		mount, err = s.mailFile()
		return mount, inTree(s.spec.Tree), err
	}
	if real, err := filepath.EvalSymlinks(mailProgram); err == nil && strings.HasPrefix(real, "/usr/") {
		mount, err = s.mailFile()
		return mount, real, err
	}
	dir, err := filepath.EvalSymlinks(path.Dir(mailProgram))
	switch {
	case err != nil:
		return nil, "", err
	case dir != path.Dir(mailProgram):
		// A union would freeze all of its programs as they are now.
		return nil, "", errors.New("this host has no " + mailProgram + ", and its directory is " + dir + "; hint: install a mail server's package, or an empty file of that name")
	}
	mount, err = sandbox.DetachedUnion(s.l.host.Mailer, dir)
	return mount, dir, err
}

func (s *start) mailFile() (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(s.l.host.Mailer, path.Base(mailProgram)), unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return sandbox.DetachedBind(f, sandbox.BindFlags{Exec: true})
}

// inTree is the program's path in a tree whose /usr/sbin may be another name of
// /usr/bin: no link is on the way to a mount point.
func inTree(tree *os.File) string {
	fd, err := unix.Openat2(int(tree.Fd()), "usr/sbin", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS})
	if err == nil {
		unix.Close(fd)
	}
	if errors.Is(err, unix.ELOOP) {
		return "/usr/bin/sendmail"
	}
	return mailProgram
}
