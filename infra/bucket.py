"""Make a bucket of the S3 store that MLflow's variables name, unless it is there: `python infra/bucket.py NAME`."""

import os
import sys
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError


def make_bucket(client: Any, name: str) -> bool:
    """Make a bucket; return False if it exists. Any other refusal is raised as boto3's ClientError."""
    try:
        client.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
            raise
        client.create_bucket(Bucket=name)
        return True
    return False


def main(name: str) -> int:
    """Make the bucket; return exit code 0 if it exists then."""
    client = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"))
    try:
        made = make_bucket(client, name)
    except (BotoCoreError, ClientError) as error:
        print(f"bucket {name}: {error}", file=sys.stderr)
        return 1
    print(f"bucket {name}: {'made' if made else 'already exists'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
