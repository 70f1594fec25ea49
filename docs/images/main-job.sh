# A repository for backups, here on a mounted disk:
bf init --repository /mnt/disk/backup
export BACKUPFORGE_REPOSITORY=/mnt/disk/backup
# The first backup: the sources of Linux 6.1
bf backup ~/linux-6.1
# A change, and another backup: only what is new is stored
echo "one more line" >> ~/linux-6.1/README
bf backup ~/linux-6.1
bf list
# Get it back, compare, and check every stored byte
bf restore latest:$HOME/linux-6.1 --target ~/restored
diff -r --no-dereference ~/linux-6.1 ~/restored && echo "no difference"
bf check --read-data
