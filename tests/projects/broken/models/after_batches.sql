select number from {{ ref('batches') }}
