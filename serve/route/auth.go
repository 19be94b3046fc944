package route

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tg123/go-htpasswd"

	"liege/serve/exchange"
)

// basicauth asks for a name and a password (RFC 7617). The argument is
// realm,user:password or realm,file; orNext lets wrong credentials pass to the
// next rule, missing ones never, as in uWSGI. A request that has a user already
// passes.
func basicauth(orNext bool) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		realm, who, _ := strings.Cut(r.ActionArg, ",")
		ask := exchange.Field{Name: "WWW-Authenticate", Value: `Basic realm="` + realm + `"`}
		ok := newPasswords(r.h.absolute(who), r.h.cfg.Log).check
		if user, password, literal := strings.Cut(who, ":"); literal {
			want := sha256.Sum256([]byte(user + ":" + password))
			ok = func(_ context.Context, _, user, password string) (bool, error) {
				got := sha256.Sum256([]byte(user + ":" + password)) // of equal length, so the time says nothing
				return subtle.ConstantTimeCompare(want[:], got[:]) == 1, nil
			}
		}
		at := r.At
		return func(x *run) verdict {
			if x.r.Get("REMOTE_USER") != "" {
				return next
			}
			user, password, given := credentials(x.r.Get("HTTP_AUTHORIZATION"))
			if given {
				switch passed, err := ok(x.ctx, x.r.Get("REMOTE_ADDR"), user, password); {
				case err != nil:
					x.fail(at, err.Error())
					return stop
				case passed:
					return x.setNew(at, "REMOTE_USER", user)
				case orNext:
					return next
				}
			}
			x.ending = func(x *run) error {
				return x.text(401, "Authorization Required", []exchange.Field{ask, plain, length(len("Unauthorized"))}, "Unauthorized")
			}
			return stop
		}, nil
	}
}

// credentials reads the field Authorization.
func credentials(s string) (user, password string, ok bool) {
	if len(s) < 6 || !strings.EqualFold(s[:6], "Basic ") {
		return "", "", false
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(s[6:]))
	if err != nil {
		return "", "", false
	}
	user, password, ok = strings.Cut(string(b), ":")
	return user, password, ok && user != "" && strings.IndexByte(user, 0) < 0
}

// Limits of a password file.
const (
	maxPasswords = 4 << 20 // bytes
	maxVerified  = 1024    // credentials that are remembered
	maxPassword  = 512     // bytes; libxcrypt's CRYPT_MAX_PASSPHRASE_SIZE: SHA-crypt takes time by its square
)

// passwords is a file of htpasswd's: user:hash lines. It is read again when it
// changes; a file that cannot be read lets nobody in.
type passwords struct {
	path string
	log  *slog.Logger

	turns *turns

	mu       sync.Mutex
	modified time.Time
	size     int64
	hashes   map[string]hashed
	verified map[[sha256.Size]byte]bool // so that a slow hash is paid once
}

// hashed is one line of the file.
type hashed struct {
	text string
	htpasswd.EncodedPasswd
}

func newPasswords(path string, log *slog.Logger) *passwords {
	return &passwords{path: path, log: log, turns: newTurns()}
}

var errPasswords = errors.New("the password file cannot be read")

// check reports whether password is the user's. A client, which is an address,
// waits its turn where the hash is slow.
func (p *passwords) check(ctx context.Context, client, user, password string) (bool, error) {
	if len(password) > maxPassword {
		return false, nil
	}
	hash, key, known, err := p.look(user, password)
	if err != nil || known {
		return known, err
	}
	if hash.EncodedPasswd == nil {
		return false, nil
	}
	give, err := p.turns.take(ctx, client)
	if err != nil {
		return false, err
	}
	ok := hash.MatchesPassword(password)
	give()
	if !ok {
		return false, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hashes[user].text == hash.text {
		if len(p.verified) >= maxVerified {
			clear(p.verified)
		}
		p.verified[key] = true
	}
	return true, nil
}

// look finds the hash of user, and whether password is known to fit.
func (p *passwords) look(user, password string) (hash hashed, key [sha256.Size]byte, known bool, err error) {
	key = sha256.Sum256([]byte(user + "\x00" + password))
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.load(); err != nil {
		return hashed{}, key, false, errors.Join(errPasswords, err)
	}
	return p.hashes[user], key, p.verified[key], nil
}

func (p *passwords) load() error {
	fi, err := os.Stat(p.path)
	if err != nil {
		return err
	}
	if p.hashes != nil && fi.ModTime().Equal(p.modified) && fi.Size() == p.size {
		return nil
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxPasswords {
		return errors.New(p.path + ": not a regular file, or larger than 4 MiB")
	}
	f, err := os.Open(p.path)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPasswords))
	if err != nil {
		return err
	}
	p.hashes, p.verified = map[string]hashed{}, map[[sha256.Size]byte]bool{}
	p.modified, p.size = fi.ModTime(), fi.Size()
	p.parse(string(text))
	return nil
}

// parse reads the lines. Those that let nobody in are told, a few of them.
func (p *passwords) parse(text string) {
	bad, n := "", 0
	for line := range strings.Lines(text) {
		n++
		user, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || user == "" || user[0] == '#' {
			continue
		}
		text, _, _ := strings.Cut(rest, ":")
		hash, why := parseHash(text)
		if why != "" && bad == "" {
			bad = fmt.Sprintf("line %d: %s", n, why)
		}
		p.hashes[user] = hashed{text, hash}
	}
	if bad != "" {
		p.log.Warn("password file: not everybody in it gets in", "file", p.path, "first", bad, "hint", "htpasswd -B FILE USER")
	}
}
