package route

import (
	"strings"

	"github.com/tg123/go-htpasswd"
)

// hashes of a password file that are taken: what htpasswd writes, and crypt(3)
// but for the oldest kind.
var kinds = [...]htpasswd.PasswdParser{htpasswd.AcceptBcrypt, htpasswd.AcceptMd5, htpasswd.AcceptCryptSha, htpasswd.AcceptSha, htpasswd.AcceptSsha}

// parseHash reads a hash of a password file. why says what is wrong with one
// that is not taken: nobody gets in with it. The traditional crypt(3), which
// uWSGI's manual has, is one: it looks at 8 bytes of the password, and a day's
// work of one machine finds any.
func parseHash(hash string) (p htpasswd.EncodedPasswd, why string) {
	for _, parse := range kinds {
		p, err := parse(hash)
		if err != nil {
			return nil, "the hash is malformed"
		}
		if p != nil {
			return p, ""
		}
	}
	if len(hash) == 13 && strings.IndexByte("${", hash[0]) < 0 {
		return nil, "the traditional crypt(3) holds off nobody and is not taken"
	}
	return nil, "no hash that is known"
}
